import pytest
from results.sample import answer, make_results, make_table

from instruct.report.failure_modes import failure_modes
from instruct.report.report import template_environment
from instruct.report.tables import failure_table

TRAIN = {
    "first_train_loss": 1.2,
    "initial_val_loss": 1.8,
    "train": {"records": 40, "tokens": 2400, "response_tokens": 400, "truncated": 0, "dropped": 0},
    "val": {"records": 4, "tokens": 240, "response_tokens": 40, "truncated": 0, "dropped": 0},
}
QUALITY = {
    "records": 50,
    "findings": {"template_markers": {"count": 0, "over": 0}, "repetition": {"count": 0, "over": 0}},
    "tokens": {"max": 97, "parts": {"train": {"counted": 40, "tokens": 2400, "response_tokens": 400}}},
}
SCORES = {"base": [1.0] * 50, "sft": [2.0] * 50}
JUDGES = make_results(make_table({"reference": SCORES})).judges
FINE = [{"response": f"An owl and {i} more."} for i in range(50)]


def modes(sft=FINE, base=FINE, train=TRAIN, quality=QUALITY, judges=JUDGES):
    answers = {
        name: [
            answer(f"r{i}", fields["response"], **{k: v for k, v in fields.items() if k != "response"})
            for i, fields in enumerate(rows)
        ]
        for name, rows in {"base": base, "sft": sft}.items()
    }
    return {mode.name: mode for mode in failure_modes(answers, train, quality, judges)}


def suspected(**changes):
    return [name for name, mode in modes(**changes).items() if mode.suspected]


def with_bad(count, **fields):
    return [{**row, **(fields if i < count else {})} for i, row in enumerate(FINE)]


def signs(mode):
    return [sign.text for sign in mode.signs if sign.bad]


def test_a_sound_run_raises_no_suspicion_and_still_shows_numbers():
    assert suspected() == []
    assert all(mode.signs and mode.command for mode in modes().values())


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("Malformed formatting", {"stop_reason": "stop_string"}, "answers that ran into the next turn's header"),
        (
            "Malformed formatting",
            {"response": "An owl.\n### Response:\nA"},
            "answers that hold a header of the template",
        ),
        ("Malformed formatting", {"response": " "}, "answers that are empty"),
        (
            "Malformed formatting",
            {"response": "Say this.", "instruction": "Say  this."},
            "answers that are the instruction",
        ),
        ("Mask bugs", {"stop_reason": "length"}, "answers that did not end by themselves"),
        ("Repetition", {"response": "It is 25, 25, 25, 25, 25, 25, 25"}, "answers that repeat themselves"),
        ("Repetition", {"stop_reason": "repetition"}, "answers that were stopped for it"),
        ("Cut texts", {"truncated_tokens": 3}, "answers that had a prompt that was cut"),
    ],
)
def test_each_sign_in_the_primary_answers_raises_its_own_suspicion(name, fields, text):
    sft = with_bad(10, **fields)
    assert suspected(sft=sft) == [name]
    (sign,) = signs(modes(sft=sft)[name])
    assert sign.startswith(text)
    assert sign.endswith(": base 0 of 50, sft 10 of 50")
    assert suspected(base=sft) == []


def test_an_echo_that_is_the_right_answer_is_none():
    assert suspected(sft=with_bad(10, response="She reads.", input="She reads.", output="She reads.")) == []


@pytest.mark.parametrize("key", ["tokens", "response_tokens"])
def test_another_count_of_targets_than_the_data_have_is_a_mask_bug(key):
    train = {**TRAIN, "train": {**TRAIN["train"], key: TRAIN["train"][key] + 1}}
    assert suspected(train=train) == ["Mask bugs"]


def test_counts_of_a_sample_are_not_compared():
    train = {**TRAIN, "train": {**TRAIN["train"], "response_tokens": 1}}
    part = {"counted": 39, "tokens": 2400, "response_tokens": 400}
    assert suspected(train=train, quality={**QUALITY, "tokens": {"max": 97, "parts": {"train": part}}}) == []


@pytest.mark.parametrize(("first", "bad"), [(0.59, True), (0.61, False), (5.39, False), (5.41, True)])
def test_a_first_loss_far_from_that_of_validation_is_a_sign_of_a_mask_bug(first, bad):
    assert (suspected(train={**TRAIN, "first_train_loss": first}) == ["Mask bugs"]) == bad


def test_cut_and_dropped_records_are_shown():
    train = {**TRAIN, "val": {**TRAIN["val"], "truncated": 2, "dropped": 1}}
    assert signs(modes(train=train)["Cut texts"]) == ["val records: 2 cut, 1 dropped for their length"]


def test_every_verdict_without_a_score_is_counted():
    unscored = {"base": [None, *[1.0] * 49], "sft": [None, None, *[2.0] * 48]}
    judges = make_results(make_table({"reference": SCORES, "llama": unscored})).judges
    mode = modes(judges=judges)["Parser errors"]
    assert signs(mode) == ["verdicts of llama without a score: 3 of 100"]


def test_findings_beyond_their_gate_in_the_data_count():
    findings = {**QUALITY["findings"], "repetition": {"count": 7, "over": 1}}
    assert suspected(quality={**QUALITY, "findings": findings}) == ["Repetition"]


def test_a_run_without_metrics_shows_what_it_has_and_guesses_nothing():
    bare = modes(train={}, quality={}, judges=())
    assert bare["Parser errors"].signs == ()
    assert [sign.text for sign in bare["Mask bugs"].signs] == [
        "answers that did not end by themselves: base 0 of 50, sft 0 of 50"
    ]


def test_no_command_names_a_file_that_the_settings_may_name_otherwise():
    assert [mode.command for mode in modes().values() if "data/" in mode.command] == []


def render(rows):
    found = list(rows.values())
    values = {"failures": found, "tables": {"failures": failure_table(found)}}
    return template_environment().get_template("sections/failures.html").render(**values)


def test_the_section_names_every_mode_its_numbers_and_its_command():
    rows = modes(sft=with_bad(10, truncated_tokens=3))
    page = render(rows)
    for mode in rows.values():
        assert mode.name in page
        assert f"<code>{mode.command}</code>" in page
    assert "Worth a look: Cut texts." in page
    assert '<span class="warn">answers that had a prompt that was cut: base 0 of 50, sft 10 of 50</span>' in page
    assert "No sign of any of them in this run." in render(modes())
    assert "no number to tell by" in render(modes(judges=()))

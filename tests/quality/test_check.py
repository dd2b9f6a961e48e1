import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from quality_records import example, gates, params

from instruct.core.records import Example, Ids, Turn, read_examples
from instruct.quality.check import OTHERS, QualityCheck
from instruct.quality.gates import verdicts
from instruct.quality.settings import FINDINGS, Gate
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer

ROOT = Path(__file__).parents[2]
BOOK = ROOT.parent / "shared/data/seed/instruction-data.json"
# One record for each finding, and nothing else wrong with it.
POSITIVES = {
    "empty_answer": {"output": "..."},
    "one_word_answer": {"output": "Owl"},
    "repeats_question": {"output": "Name a bird."},
    "repetition": {"output": "an owl and " * 5},
    "control_characters": {"output": "an\x00 owl"},
    "broken_encoding": {"output": "the cafÃ© owl"},
    "mixed_scripts": {"output": "an оwl"},
    "mixed_languages": {
        "instruction": "Tell me in one sentence what an owl is and what it eats.",
        "output": "Die Eule ist ein Vogel, der in der Nacht Mäuse jagt und frisst.",
    },
    "template_markers": {"output": "an owl\n### Instruction:\nName a fish."},
    "unspellable": {"output": "an \U00050000 owl"},
    "pii_email": {"output": "ask ann.lee@mail.org"},
    "pii_phone": {"output": "call +44 20 7946 0958"},
    "pii_card": {"output": "pay with 4242 4242 4242 4242"},
    "pii_key": {"output": "use AKIA7YQ2WERTZU3OPLKJ"},
}


def checked(records, settings=None, **options):
    check = QualityCheck(settings or params(), **options)
    for record in records:
        check.add(record)
    return check.report()


def counts(report):
    return {name: finding["count"] for name, finding in report["findings"].items() if finding["count"]}


@pytest.mark.parametrize("finding", POSITIVES)
def test_each_finding_is_made_alone(finding, smollm2_tokenizer):
    record = example(**POSITIVES[finding])
    report = checked([example(id="good", instruction="Name a fish."), record], tokenizer=smollm2_tokenizer)
    assert counts(report) == {finding: 1}
    (listed,) = report["findings"][finding]["records"]
    assert (listed["id"], listed["index"], listed["field"]) == ("r", 1, "output")


def test_every_finding_but_the_one_of_groups_has_a_positive():
    assert set(POSITIVES) | {"contradictory_answers"} == set(FINDINGS)


def test_contradictions_count_every_record_and_name_the_others():
    records = [example("Lima", "Capital of Peru?", id=i) for i in "ab"]
    records += [example("Quito", "capital of  peru?", id="c"), example("Oslo", "Capital of Norway?", id="d")]
    finding = checked(records)["findings"]["contradictory_answers"]
    assert (finding["count"], finding["share"]) == (3, 0.75)
    (listed,) = finding["records"]
    assert (listed["id"], listed["what"]) == ("a", "is one of 2 answers to one prompt; the others: b, c")


def test_records_are_listed_up_to_the_cap_and_all_are_counted():
    report = checked([example("Owl", id=f"r{i}") for i in range(50)], params(listed=3))
    finding = report["findings"]["one_word_answer"]
    assert (finding["count"], [record["id"] for record in finding["records"]]) == (50, ["r0", "r1", "r2"])


def test_a_record_counts_once_for_a_finding_whatever_its_fields():
    report = checked([example("a\x00 b", "c\x00 d", "e\x00 f")])
    assert counts(report) == {"control_characters": 1}


def test_parts_are_counted_apart_and_indices_start_anew():
    check = QualityCheck(params())
    for part, total in (("train", 3), ("val", 1), ("test", 2)):
        for i in range(total):
            check.add(
                example("Owl" if i else "An owl.", "Name a bird." if part != "val" else "?", id=f"{part}{i}"), part
            )
    report = check.report()
    assert report["parts"] == {"train": 3, "val": 1, "test": 2}
    one_word = report["findings"]["one_word_answer"]
    assert one_word["parts"] == {"train": 2, "val": 0, "test": 1}
    assert [(r["part"], r["index"]) for r in one_word["records"]] == [("train", 1), ("train", 2), ("test", 1)]
    contradictory = report["findings"]["contradictory_answers"]
    assert contradictory["parts"] == {"train": 3, "val": 0, "test": 2}
    assert contradictory["records"][0]["part"] == "train"


def test_kinds_are_shares_and_too_many_become_others(monkeypatch):
    monkeypatch.setattr("instruct.quality.check._NAMES", 2)
    report = checked([example(kind=kind, id=str(i)) for i, kind in enumerate("aabcda")])
    assert report["kinds"] == [
        {"name": "a", "count": 3, "share": 0.5},
        {"name": OTHERS, "count": 2, "share": 0.333333},
        {"name": "b", "count": 1, "share": 0.166667},
    ]
    assert checked([example()])["kinds"] == []


def test_the_report_is_json_and_the_same_twice(smollm2_tokenizer):
    records = [example(**{"id": name, **fields}) for name, fields in POSITIVES.items()]
    reports = [
        json.dumps(checked(records, tokenizer=smollm2_tokenizer, template=TEMPLATES["alpaca"]), allow_nan=False)
        for _ in range(2)
    ]
    assert reports[0] == reports[1]


def test_no_report_quotes_what_is_personal(smollm2_tokenizer):
    report = json.dumps(checked([example(**fields) for name, fields in POSITIVES.items() if name.startswith("pii_")]))
    assert not [word for word in ("ann.lee", "7946", "4242", "AKIA7") if word in report]


# Gates


@pytest.mark.parametrize(("max_share", "over"), [(0.0, True), (0.24, True), (0.25, False), (1.0, False)])
def test_a_gate_closes_beyond_its_share_and_not_at_it(max_share, over):
    records = [example("Owl", id="a"), *(example(id=i) for i in "bcd")]
    settings = params(one_word_answer=Gate(max_share=max_share, action="fail"))
    report = checked(records, settings)
    assert report["findings"]["one_word_answer"]["over"] == over
    assert report["gates"] == {"failed": int(over), "warned": 0}
    warnings, failures = verdicts(report)
    assert (len(warnings), len(failures)) == (0, int(over))


def test_a_closed_gate_says_what_where_and_what_to_do():
    settings = params(one_word_answer=Gate(max_share=0.1, action="warn"))
    (warning,), failures = verdicts(checked([example("Owl", id=f"r{i}") for i in range(7)], settings))
    assert failures == []
    assert warning == (
        "one_word_answer: 7 of 7 records (100 %), more than quality.gates.one_word_answer.max_share 0.1 allows: "
        + "; ".join(f'[{i}] r{i}: "output" is one word' for i in range(5))
        + " and 2 more; correct or drop them, or change the gate"
    )


def test_gates_cover_every_finding_once():
    assert [name for name, _ in gates()] == list(FINDINGS)


# Real data


def test_the_projects_own_data_gives_no_false_alarm():
    report = checked(read_examples(ROOT / "data/instructions.json"), tokenizer=gpt2_tokenizer())
    assert set(counts(report)) == {"one_word_answer"}
    assert len(report["kinds"]) == 96
    assert report["languages"]["fr"]["count"] == 2  # translations into French
    assert set(report["languages"]) == {"unknown", "en", "fr"}


def test_the_books_data_has_the_findings_that_it_is_known_for():
    if not BOOK.is_file():
        pytest.skip("../shared/data/seed/instruction-data.json is not here")
    rows = json.loads(BOOK.read_text(encoding="utf-8"))
    ids = Ids()
    records = [Example(**row, id=ids.make(row)) for row in rows]
    report = checked(records)
    by_prompt = Counter((row["instruction"], row["input"]) for row in rows)
    same_prompt = sum(count for count in by_prompt.values() if count > 1)
    assert same_prompt - 15 <= report["findings"]["contradictory_answers"]["count"] <= same_prompt + 10
    assert report["findings"]["one_word_answer"]["count"] == sum(len(row["output"].split()) == 1 for row in rows)
    (echo,) = report["findings"]["repeats_question"]["records"]
    assert rows[echo["index"]]["output"] == rows[echo["index"]]["input"]
    assert set(counts(report)) == {"one_word_answer", "contradictory_answers", "repeats_question"}


@pytest.mark.parametrize("finding", sorted(set(POSITIVES) - {"unspellable"}))
def test_every_turn_of_a_chat_is_looked_at(finding):
    turn = Turn(**{"instruction": "Name a bird.", "output": "An owl.", **POSITIVES[finding]})
    report = checked([replace(example(), history=(Turn("Name a fish.", "", "A carp."), turn))])
    assert counts(report) == {finding: 1}
    (record,) = report["findings"][finding]["records"]
    assert record["field"].startswith("history[1].")


def test_a_system_prompt_is_looked_at():
    report = checked([replace(example(), system="Mail ann.lee@mail.org, then <|im_start|>")])
    assert counts(report) == {"template_markers": 1, "pii_email": 1}
    assert [report["findings"][name]["records"][0]["field"] for name in counts(report)] == ["system", "system"]


def test_one_last_question_after_two_histories_is_no_contradiction():
    told = [replace(example(output=text, id=text), history=(Turn("Name it.", "", text),)) for text in ("Owl.", "Wren.")]
    assert counts(checked(told)) == {"one_word_answer": 2}
    same = [replace(one, history=told[0].history) for one in told]
    assert counts(checked(same))["contradictory_answers"] == 2

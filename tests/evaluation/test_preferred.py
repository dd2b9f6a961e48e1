"""A preference-tuned system is compared with the one it was made from; without one nothing of it is written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation.answers import answer
from evaluation.test_measured import TABLE, TRUE, WRONG, results_of, said
from evaluation.test_score import FIT, whole_results
from results.sample import make_judge, make_table

from instruct.evaluation.judges.base import Identity, Verdict
from instruct.evaluation.measured import choose_judged, score_all
from instruct.evaluation.score import judge_all
from instruct.evaluation.systems import Systems, name_systems
from instruct.report.tables import score_table
from instruct.results.headline import describe_orders, headline_lines, headline_rows, judge_lines, step_lines
from instruct.results.lock import stale_lines
from instruct.results.schema import dump, load
from instruct.results.summary import MOST, summary_of

HALF = said(lambda n: str(n) if n % 2 else str(n + 1))


def test_a_better_model_is_better_than_the_one_before_and_the_same_one_is_not():
    for dpo, verdict in ((TRUE, "better"), (HALF, "not distinguishable"), (WRONG, "worse")):
        results = results_of(base=WRONG, sft=HALF, dpo=dpo)
        step = results.headline[0].step_of("dpo")
        assert (step.system, step.against, step.verdict) == ("dpo", "sft", verdict)
        assert (results.primary, results.previous, results.against) == ("dpo", "sft", "base")


def test_the_difference_from_the_system_before_is_that_of_the_two_alone():
    step = results_of(base=WRONG, sft=HALF, dpo=TRUE).headline[0].step_of("dpo")
    alone = results_of(base=HALF, dpo=TRUE).headline[0].difference_of("dpo")
    numbers = ("count", "mean", "low", "high", "p_value", "wins", "ties", "losses")
    assert [getattr(step, name) for name in numbers] == [getattr(alone, name) for name in numbers]


def test_without_it_nothing_of_it_is_written_or_said():
    results = results_of(base=WRONG, sft=TRUE)
    assert "over_previous" not in str(dump(results)) and list(step_lines(results, TABLE)) == []
    assert results.previous is None and not {"gain", "gain_low"} & set(summary_of(results))
    assert len(next(iter(headline_rows(results)))) == 2 + len(results.headline)


def test_with_it_log_table_and_summary_show_it_with_lengths():
    long = [answer(one.id, one.response, one.output, instruction=one.instruction, response_tokens=9) for one in TRUE]
    results = results_of(base=WRONG, sft=HALF, dpo=long)
    lines = list(headline_lines(results, TABLE))
    assert any(line.startswith("DPO model is better than SFT model") for line in lines)
    assert any("SFT model 3.0, DPO model 9.0" in line for line in lines)
    head, *rows = headline_rows(results)
    assert head[-2:] == ("against sft", "tokens") and rows[-1][-1] == "9.0" and rows[-1][-2].startswith("+25.0")
    summary = summary_of(results)
    assert len(summary) <= MOST
    assert summary["gain"] == pytest.approx(summary["accuracy_dpo"] - summary["accuracy_sft"])
    assert load(json.dumps(dump(results)), "here") == results


def test_the_primary_score_alone_claims_what_preference_tuning_did_without_correction():
    """As `instruct compare` has it: every other score is a hint, its p-value adjusted for their number."""
    results = results_of(base=WRONG, sft=HALF, dpo=TRUE)
    first = results.headline[0]

    def with_p(score):
        steps = tuple(
            replace(one, p_value=0.04, mean=5.0, worst_case=5.0, best_case=5.0) for one in score.over_previous
        )
        return replace(score, over_previous=steps)

    second = with_p(replace(first, name="open_similarity"))
    results = replace(results, measured=(with_p(first), second, with_p(replace(first, name="similarity"))))
    deciding, *hints = [line for line in step_lines(results, TABLE) if "p = 0.04" in line]
    assert deciding.startswith("DPO model is better than SFT model")
    assert len(hints) == 2
    for line in hints:
        assert line.startswith("Exploratory: ") and "adjusted 0.08" in line and "is better" not in line


class Pairs:
    """Asked about two systems, it prefers the second in both orders."""

    pairs = True
    identity = Identity(about={"judge": "pairs", "model": "m"}, rubric="pairwise", rubric_sha256="00")

    def judge(self, answers):
        self.asked = list(answers)
        return {
            name: [Verdict(score=score, raw_reply="x", choices=("B", "A")) for _ in answers[name]]
            for name, score in zip(answers, (0.0, 100.0), strict=True)
        }


def test_a_judge_of_pairs_is_asked_about_the_last_two_trained_systems():
    answers = {"base": WRONG, "sft": HALF, "dpo": TRUE}
    systems = Systems(files=dict.fromkeys(answers, Path(__file__)), baselines=("base",))
    pair = choose_judged(score_all(answers, {}), systems)
    judge = Pairs()
    judge_all({"pairs": judge}, answers, pair)
    assert judge.asked == ["sft", "dpo"]
    alone = Systems(files={"base": Path("b"), "sft": Path("s")}, baselines=("base",))
    assert choose_judged(score_all({"base": WRONG, "sft": TRUE}, {}), alone) == ("base", "sft")


def test_people_are_held_against_a_judge_of_pairs_on_who_won():
    answers = {"base": WRONG, "sft": HALF, "dpo": TRUE}
    human = {
        system: {one.id: 20.0 * (system == "dpo") + place for place, one in enumerate(WRONG)} for system in answers
    }
    verdicts = judge_all({"pairs": Pairs()}, answers, ("sft", "dpo"))
    (row,) = whole_results(answers, verdicts, {"pairs": (Pairs.identity, FIT)}, human).agreement
    assert (row.first, row.second, row.system, row.count) == ("pairs", "human", "dpo", len(WRONG))
    assert row.mean_difference == 0


def test_a_tie_of_pairs_is_told_as_half_a_win_and_not_as_a_preference():
    results = results_of(base=WRONG, sft=HALF, dpo=TRUE)
    ties = make_judge("pairs", make_table({"pairs": dict.fromkeys(("sft", "dpo"), [50.0] * len(TRUE))}), {"judge": "x"})
    ties = replace(
        ties, systems=tuple(replace(one, orders=40, consistent=30, first_place_won=0.25) for one in ties.systems)
    )
    (line,) = [
        line for line in step_lines(replace(results, judges=(*results.judges, ties)), TABLE) if "both orders" in line
    ]
    assert "50.0 % of the wins, a tie being half" in line and "prefers" not in line
    assert "30 of 40 pairs" in line and "first place won 25 %" in line


def test_every_share_of_wins_is_shown_with_how_far_the_two_orders_agree():
    answers = {"base": WRONG, "sft": HALF, "dpo": TRUE}
    verdicts = judge_all({"pairs": Pairs()}, answers, ("sft", "dpo"))
    results = whole_results(answers, verdicts, {"pairs": (Pairs.identity, FIT)})
    (judge,) = results.judges
    shown = [*judge_lines(results), score_table(judge, "wins", results.names).caption]
    assert len(shown) == 3
    for text in shown:
        assert f"{len(TRUE)} of {len(TRUE)} pairs" in text and "first place won 50 %" in text
    one = replace(judge.systems[0], first_place_won=None)
    assert "no verdict has a winner" in describe_orders(one)
    plain = results_of(base=WRONG, sft=HALF, dpo=TRUE)
    texts = [*judge_lines(plain), score_table(plain.judges[0], "similarity", plain.names).caption]
    assert not any("orders" in text or "place" in text for text in texts)


def test_answers_in_the_folder_of_preference_tuning_are_systems_after_the_sft_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "preferred"
    folder.mkdir()
    (folder / "README.md").write_text("kept")
    given = [Path(one) for one in ("base=b.json", "sft=s.json", "preferred=preferred")]
    assert list(name_systems(given).files) == ["base", "sft"]
    (folder / "dpo.json").write_text("[]")
    found = name_systems(given)
    assert found.files["dpo"] == Path("preferred/dpo.json") and found.trained == ("sft", "dpo")


def test_stages_of_a_method_that_is_off_make_no_result_stale():
    stage = {"params": {"params.yaml": {"prefer": {"beta": 0.1}}}}
    lock = {"stages": {"prefer@dpo": stage, "train": {"params": {"params.yaml": {"train": {"lr": 1}}}}}}

    def stale(methods):
        settings = {"prefer": {"beta": 0.5, "methods": methods}, "train": {"lr": 1}}
        return stale_lines(settings, {}, lock)

    assert stale([]) == []
    assert any("prefer.beta" in line for line in stale(["dpo"]))

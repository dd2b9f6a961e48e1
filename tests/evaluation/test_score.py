import json
import math
import random

import numpy as np
import pytest
from evaluation.answers import ScriptedJudge, answer, evaluate_params

from instruct.core.errors import DataError, JudgeError
from instruct.core.files import read_csv, write_csv, write_json
from instruct.evaluation.controls import Fitness
from instruct.evaluation.judges.base import Identity
from instruct.evaluation.judges.reference import ReferenceJudge
from instruct.evaluation.reference import compare
from instruct.evaluation.score import Judgement, check_answers, check_unscored, judge_all, scores_of
from instruct.evaluation.summary import (
    describe_test,
    measure_all,
    score_columns,
    score_rows,
    summarise,
    summarise_answers,
    summarise_judge,
)
from instruct.statistics import mean_interval, paired_test

IDENTITY = Identity(about={"judge": "reference", "score": "similarity to the reference answer"})
FIT = Fitness(scores={"reference": 100.0}, count=1, unscored=0, problems=())


def summary_of(judgements, params):
    return summarise_judge(judgements, "one", IDENTITY, {one.id: one.id for one in judgements}, params)


def test_near_duplicates_are_counted_as_one_for_intervals_and_tests():
    verdicts = judgements([10.0] * 6 + [50.0] * 2, [30.0] * 6 + [40.0] * 2)
    alone = summary_of(verdicts, evaluate_params())
    groups = {f"r{i}": "same" if i < 6 else f"r{i}" for i in range(8)}
    grouped = summarise_judge(verdicts, "one", IDENTITY, groups, evaluate_params())
    assert grouped["tuned"]["mean"] == alone["tuned"]["mean"]
    assert grouped["difference"]["p_value"] > alone["difference"]["p_value"]
    assert grouped["difference"]["high"] - grouped["difference"]["low"] > (
        alone["difference"]["high"] - alone["difference"]["low"]
    )


def judgement(id, system, score, *, problem="", raw_reply="", **fields):
    values = {"judge": "one", "kind": "", "failed": int(score is None), **fields}
    return Judgement(id=id, system=system, score=score, problem=problem, raw_reply=raw_reply, **values)


def judgements(base, tuned):
    return [
        judgement(f"r{i}", system, score)
        for system, scores in (("base", base), ("tuned", tuned))
        for i, score in enumerate(scores)
    ]


def both(*texts):
    return {"base": [answer(f"r{i}", text) for i, text in enumerate(texts)],
            "tuned": [answer(f"r{i}", text + "!") for i, text in enumerate(texts)]}  # fmt: skip


def leaves(value, path=""):
    """The numbers and words that DVC shows: it leaves lists out."""
    if isinstance(value, list):
        return {}
    if isinstance(value, dict):
        return {name: leaf for key, one in value.items() for name, leaf in leaves(one, f"{path}.{key}").items()}
    return {path: value}


def test_every_answer_of_both_systems_is_judged_in_order_by_every_judge():
    one, other = ScriptedJudge(10, "what?", 30, 40, 50, ""), ScriptedJudge(1, 2, 3, 4, 5, 6)
    verdicts = judge_all({"one": one, "other": other}, both("a", "b", "c"))
    order = [(s, f"r{i}") for s in ("base", "tuned") for i in range(3)]
    assert [(v.judge, v.system, v.id) for v in verdicts] == [(j, *rest) for j in ("one", "other") for rest in order]
    assert [v.score for v in verdicts] == [10, None, 30, 40, 50, None, 1, 2, 3, 4, 5, 6]
    assert [each.response for each in one.asked] == ["a", "b", "c", "a!", "b!", "c!"]
    assert scores_of(verdicts, "one", "base") == {"r0": 10, "r1": None, "r2": 30}


def test_raw_replies_and_problems_are_kept():
    verdicts = judge_all({"one": ScriptedJudge(10, "I refuse.")}, both("a"))
    assert [(v.raw_reply, v.problem, v.failed) for v in verdicts] == [("10", "", 0), ("I refuse.", "no number", 1)]


def test_the_reference_judge_scores_by_similarity_and_says_so():
    judge = ReferenceJudge()
    (verdict,) = judge.judge({"base": [answer("x", "Paris it is")]})["base"]
    assert verdict.score == compare("Paris it is", "Paris").similarity
    assert verdict.raw_reply == verdict.problem == ""
    assert "similarity" in judge.identity.about["score"]


@pytest.mark.parametrize(
    "tuned",
    [
        [answer("r0", "a")],
        [answer("r0", "a"), answer("r2", "b")],
        [answer("r1", "b"), answer("r0", "a")],
        [answer("r0", "a"), answer("r1", "b"), answer("r2", "c")],
        [answer("r0", "a"), answer("r1", "b", output="Rome")],
        [answer("r0", "a"), answer("r1", "b", instruction="Another task")],
        [],
    ],
)
def test_systems_that_answered_different_records_are_refused_before_any_verdict(tuned):
    judge = ScriptedJudge()
    with pytest.raises(DataError, match="different records; run `dvc repro`"):
        judge_all({"one": judge}, {"base": [answer("r0", "x"), answer("r1", "y")], "tuned": tuned})
    assert judge.asked == []


@pytest.mark.parametrize("records", [[], [answer("r0", "a"), answer("r0", "b")]])
def test_no_records_and_one_id_twice_are_refused(records):
    with pytest.raises(DataError, match="no record, or one id twice"):
        check_answers({"base": records, "tuned": list(records)})


def test_too_many_verdicts_without_score_stop_with_the_replies_shown():
    verdicts = judgements([50.0] * 7, [50.0] * 7) + [
        judgement(f"u{i}", "tuned", None, problem="no number", raw_reply=f"reply {i}\n" + "x" * 500) for i in range(6)
    ]
    with pytest.raises(JudgeError) as caught:
        check_unscored(verdicts, 0.25)
    message = str(caught.value)
    assert message.startswith("one: 6 of 20 verdicts have no score, more than evaluate.max_unscored 0.25 allows")
    for i in range(5):
        assert f"tuned u{i}: no number: 'reply {i}\\n" in message
    assert "reply 5" not in message
    assert max(map(len, message.splitlines())) < 150


@pytest.mark.parametrize(
    ("unscored", "total", "allowed", "passes"),
    [
        (0, 10, 0.0, True),
        (1, 10, 0.0, False),
        (1, 20, 0.05, True),
        (2, 20, 0.05, False),
        (10, 10, 1.0, True),
        # 0.29 * 100 is 28.999999999999996 in floating point
        (29, 100, 0.29, True),
        (30, 100, 0.29, False),
    ],
)
def test_exactly_the_allowed_share_passes(unscored, total, allowed, passes):
    verdicts = [judgement(f"r{i}", "base", None if i < unscored else 1.0) for i in range(total)]
    if passes:
        check_unscored(verdicts, allowed)
    else:
        with pytest.raises(JudgeError):
            check_unscored(verdicts, allowed)


def test_means_are_over_the_scored_and_the_others_are_counted():
    metrics = summary_of(judgements([10, None, 30, None], [None, 60, 90, 30]), evaluate_params())
    assert (metrics["base"]["mean"], metrics["base"]["scored"], metrics["base"]["unscored"]) == (20, 2, 2)
    assert (metrics["tuned"]["mean"], metrics["tuned"]["scored"], metrics["tuned"]["unscored"]) == (60, 3, 1)
    # Only the third record has a score for both.
    assert metrics["difference"]["count"] == 1
    assert metrics["difference"]["mean"] == 60
    assert metrics["identity"] == IDENTITY.about


def test_a_score_of_zero_is_a_score():
    metrics = summary_of(judgements([0, 0], [0.0, None]), evaluate_params())
    assert (metrics["base"]["mean"], metrics["base"]["scored"], metrics["base"]["unscored"]) == (0, 2, 0)
    assert (metrics["tuned"]["mean"], metrics["tuned"]["scored"]) == (0, 1)
    assert metrics["difference"]["count"] == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17, 100])
def test_quartiles_are_numpys(count):
    rng = random.Random(count)
    scores = [round(rng.uniform(0, 100), 2) for _ in range(count)]
    metrics = summary_of(judgements(scores, scores), evaluate_params())["base"]
    expected = np.percentile(scores, [25, 50, 75])
    assert (metrics["q1"], metrics["median"], metrics["q3"]) == pytest.approx(tuple(expected), abs=1e-4)


def test_intervals_and_difference_are_those_of_the_statistics():
    base, tuned = [10.0, 40.0, 35.0, 80.0, 55.0], [30.0, 40.0, 90.0, 70.0, 95.0]
    params = evaluate_params(resamples=1000, seed=9)
    metrics = summary_of(judgements(base, tuned), params)
    interval = mean_interval(tuned, resamples=1000, seed=9)
    assert (metrics["tuned"]["low"], metrics["tuned"]["high"]) == pytest.approx((interval.low, interval.high), abs=1e-4)
    paired = paired_test(base, tuned, resamples=1000, seed=9)
    difference = metrics["difference"]
    assert difference["p_value"] == pytest.approx(paired.p_value, abs=1e-6)
    assert difference["mean"] == pytest.approx(21.0)
    assert (difference["wins"], difference["ties"], difference["losses"]) == (3, 1, 1)


def test_pairs_are_made_by_record_and_not_by_place_among_the_scored():
    metrics = summary_of(judgements([None, 10, 50], [90, None, 50]), evaluate_params())
    assert metrics["difference"] == {
        "count": 1, "mean": 0, "low": -100, "high": 100, "p_value": 1, "wins": 0, "ties": 1, "losses": 0,
        # base 0, 10, 50 and tuned 90, 100, 50 at best; base 100, 10, 50 and tuned 90, 0, 50 at worst
        "best_case": pytest.approx((90 + 90 + 0) / 3, abs=1e-4),
        "worst_case": pytest.approx((-10 - 10 + 0) / 3, abs=1e-4),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("base", "tuned"), [([None, None], [None, None]), ([None, None], [1.0, 2.0]), ([None, 5.0], [5.0, None])]
)
def test_what_does_not_exist_is_absent_and_never_null(base, tuned):
    metrics = summary_of(judgements(base, tuned), evaluate_params())
    assert metrics["difference"] == {"count": 0}
    for system, scores in (("base", base), ("tuned", tuned)):
        assert ("mean" in metrics[system]) == any(score is not None for score in scores)
        assert metrics[system]["unscored"] == scores.count(None)
    assert None not in leaves(metrics).values()


@pytest.mark.parametrize(
    "scores",
    [
        ([1 / 3, 77.77777, None], [2 / 3, 0.1, 100.0]),
        ([0.00002, 1.0], [0.0, 1.0]),  # their difference rounds to -0.0
        ([None] * 3, [None] * 3),
    ],
)
def test_metrics_hold_only_what_dvc_shows(scores):
    metrics = summary_of(judgements(*scores), evaluate_params())
    for name, leaf in leaves(metrics).items():
        assert type(leaf) in (int, float, str), name
        assert not isinstance(leaf, float) or (math.isfinite(leaf) and leaf == round(leaf, 6)), name
        assert math.copysign(1, leaf) == 1 if leaf == 0 else True, f"{name} is -0.0"


def test_every_way_to_stop_is_counted():
    reasons = ["end_of_text", "length", "repetition", "stop_string", "length", "something new"]
    stopped = summarise_answers({"base": [answer(f"r{i}", "x", stop_reason=one) for i, one in enumerate(reasons)]})
    stopped = stopped["base"]["stopped"]
    assert sum(stopped.values()) == len(reasons)
    assert (stopped["length"], stopped["something new"], stopped["end_of_text"]) == (2, 1, 1)
    none_cut = summarise_answers({"base": [answer("r0", "x")]})["base"]["stopped"]
    assert none_cut == {"end_of_text": 1, "stop_string": 0, "length": 0, "repetition": 0}


def test_what_has_no_score_bounds_the_mean_from_both_sides():
    metrics = summary_of(judgements([10, None, 30, None], [50, 60, 90, 30]), evaluate_params())
    assert metrics["base"]["worst_case"] == (10 + 0 + 30 + 0) / 4
    assert metrics["base"]["best_case"] == (10 + 100 + 30 + 100) / 4
    assert metrics["tuned"]["worst_case"] == metrics["tuned"]["mean"] == metrics["tuned"]["best_case"]
    assert metrics["difference"]["worst_case"] == (230 - 240) / 4
    assert metrics["difference"]["best_case"] == (230 - 40) / 4


def test_unscored_answers_are_listed_with_reply_and_cause():
    verdicts = [judgement("r0", "base", None, problem="no score", raw_reply="x" * 900), judgement("r0", "tuned", 1.0)]
    assert summary_of(verdicts, evaluate_params())["unscored"] == [
        {"id": "r0", "system": "base", "problem": "no score", "raw_reply": "x" * 200}
    ]


def test_spread_over_repeats_is_summed_up_and_lost_repeats_are_counted():
    verdicts = [
        judgement("r0", "base", 15.0, spread=5.0, replies=("10", "20", "?"), failed=1),
        judgement("r1", "base", 60.0, spread=0.0, replies=("60", "60", "60")),
        judgement("r0", "tuned", 1.0),
        judgement("r1", "tuned", 1.0),
    ]
    metrics = summary_of(verdicts, evaluate_params())
    assert (metrics["base"]["mean_spread"], metrics["base"]["flipped"], metrics["base"]["failed_repeats"]) == (
        2.5,
        0.5,
        1,
    )
    assert "mean_spread" not in metrics["tuned"]


def test_a_reply_without_score_among_repeats_counts_towards_the_limit():
    verdicts = [judgement("r0", "base", 15.0, replies=("10", "20", "?", "??"), failed=2, problem="no score")]
    check_unscored(verdicts, 0.5)
    with pytest.raises(JudgeError, match="2 of 4 verdicts"):
        check_unscored(verdicts, 0.49)


def test_each_judge_is_held_to_the_limit_alone():
    good = [judgement(f"r{i}", "base", 1.0) for i in range(99)]
    bad = [judgement("r0", "base", None, judge="other")]
    with pytest.raises(JudgeError, match="other: 1 of 1 verdicts"):
        check_unscored([*good, *bad], 0.05)


def test_orders_of_pairs_are_counted():
    verdicts = [
        judgement("r0", "base", 100.0, choices=("A", "B")),
        judgement("r1", "base", 50.0, choices=("A", "A")),
        judgement("r2", "base", 50.0, choices=("tie", "tie")),
        judgement("r3", "base", None, choices=("none", "A")),
    ]
    metrics = summary_of([*verdicts, *(judgement(f"r{i}", "tuned", 1.0) for i in range(4))], evaluate_params())
    assert (metrics["base"]["orders"], metrics["base"]["consistent"]) == (3, 2)
    assert metrics["base"]["first_place_won"] == 0.5  # three of six replies say A


def test_the_test_set_is_named_by_its_content():
    records = [answer("r0", "x"), answer("r1", "y")]
    found = describe_test(records, "alpaca")
    assert found["records"] == 2
    assert describe_test([answer("r0", "other"), answer("r1", "answers")], "alpaca") == found
    for other in (
        [records[0]],
        records[::-1],
        [records[0], answer("r1", "y", input="z")],
        [records[0], answer("r2", "y")],
    ):
        assert describe_test(other, "alpaca")["sha256"] != found["sha256"]
    assert describe_test(records, "phi3")["template_sha256"] != found["template_sha256"]


def whole_summary(answers, human=None, **judges):
    verdicts = judge_all(judges, answers)
    judged_by = {name: (judge.identity, FIT) for name, judge in judges.items()}
    people = human or {"base": {}, "tuned": {}}
    return verdicts, summarise(verdicts, judged_by, answers, measure_all(answers), people, "alpaca", evaluate_params())


def test_judges_and_people_are_held_against_each_other_over_both_systems():
    human = {"base": {"r0": 10.0, "r1": None}, "tuned": {"r0": 30.0, "r1": 90.0}}
    _, metrics = whole_summary(
        both("a", "b"), human, one=ScriptedJudge(20, 40, 60, 80), two=ScriptedJudge(20, 40, 60, "?")
    )
    assert set(metrics["agreement"]) == {"one ~ two", "one ~ human", "two ~ human"}
    assert (metrics["agreement"]["one ~ two"]["count"], metrics["agreement"]["one ~ human"]["count"]) == (3, 3)
    assert metrics["agreement"]["one ~ human"]["mean_difference"] == pytest.approx((10 + 30 - 10) / 3, abs=1e-4)
    assert set(metrics["judges"]) == {"one", "two"}  # people are no judge of a run
    assert metrics["judges"]["one"]["controls"]["fit"] is True


def test_one_judge_alone_agrees_with_nobody():
    _, metrics = whole_summary(both("a"), one=ScriptedJudge(20, 40))
    assert "agreement" not in metrics


def test_the_table_of_scores_has_a_row_for_each_record_and_stays_empty_where_nothing_was_scored(tmp_path):
    answers = both("Paris", "b")
    verdicts, _ = whole_summary(answers, one=ScriptedJudge(0, "?", 60.5, 80))
    scores = {"one": {system: scores_of(verdicts, "one", system) for system in ("base", "tuned")}}
    write_csv(tmp_path / "s.csv", score_columns(["one"]), score_rows(answers, scores, measure_all(answers)))
    rows = read_csv(tmp_path / "s.csv")
    assert [row["id"] for row in rows] == ["r0", "r1"]
    assert list(rows[0])[:5] == ["id", "kind", "group", "one.base", "one.tuned"]
    assert [(row["one.base"], row["one.tuned"]) for row in rows] == [("0", "60.5"), ("", "80")]
    assert (rows[0]["exact_match.base"], rows[0]["similarity.base"]) == ("100.0", "100.0")
    assert float(rows[1]["chrf.tuned"]) == pytest.approx(compare("b!", "Paris").chrf, abs=1e-4)


def test_the_same_answers_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        _, metrics = whole_summary(both("Paris", "It is Paris.", "Lyon"), reference=ReferenceJudge())
        write_json(tmp_path / name, metrics)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert json.loads((tmp_path / "one").read_text(encoding="utf-8"))["judges"]["reference"]["tuned"]["scored"] == 3

import json
import math
import random

import numpy as np
import pytest
from evaluation.answers import answer, evaluate_params

from instruct.errors import DataError, JudgeError
from instruct.evaluation.judges.base import Verdict
from instruct.evaluation.judges.reference import ReferenceJudge
from instruct.evaluation.reference import compare
from instruct.evaluation.score import Judgement, check_unscored, judge_all, summarise
from instruct.files import write_json
from instruct.statistics import mean_interval, paired_test

IDENTITY = {"judge": "reference", "score": "similarity to the reference answer"}


class ScriptedJudge:
    """Replies in order; a number is a score, anything else a reply without one."""

    def __init__(self, *replies):
        self.identity = {"judge": "scripted"}
        self.asked = []
        self._replies = iter(replies)

    def judge(self, response):
        self.asked.append(response)
        reply = next(self._replies)
        scored = isinstance(reply, int | float)
        return Verdict(score=reply if scored else None, raw_reply=str(reply), problem="" if scored else "no number")


def judgement(id, system, score, *, problem="", raw_reply="", stop_reason="end_of_text", **measures):
    values = {"exact_match": 0.0, "token_f1": 0.0, "rouge_l": 0.0, "chrf": 0.0, **measures}
    return Judgement(
        id=id,
        system=system,
        kind="",
        score=score,
        problem=problem,
        raw_reply=raw_reply,
        stop_reason=stop_reason,
        **values,
    )


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
    if isinstance(value, dict):
        return {name: leaf for key, one in value.items() for name, leaf in leaves(one, f"{path}.{key}").items()}
    return {path: value}


def test_every_answer_of_both_systems_is_judged_in_order():
    judge = ScriptedJudge(10, "what?", 30, 40, 50, "")
    verdicts = judge_all(judge, both("a", "b", "c"))
    assert [(v.system, v.id) for v in verdicts] == [(s, f"r{i}") for s in ("base", "tuned") for i in range(3)]
    assert [v.score for v in verdicts] == [10, None, 30, 40, 50, None]
    assert [one.response for one in judge.asked] == ["a", "b", "c", "a!", "b!", "c!"]


def test_raw_replies_and_problems_are_kept():
    verdicts = judge_all(ScriptedJudge(10, "I refuse."), both("a"))
    assert [(v.raw_reply, v.problem) for v in verdicts] == [("10", ""), ("I refuse.", "no number")]


def test_likeness_stands_beside_every_verdict_scored_or_not():
    answers = {"base": [answer("x", "Paris")], "tuned": [answer("x", "It is Paris, I think")]}
    verdicts = judge_all(ScriptedJudge("?", 20), answers)
    assert (verdicts[0].exact_match, verdicts[0].chrf) == (100, 100)
    likeness = compare("It is Paris, I think", "Paris")
    assert verdicts[1].token_f1 == pytest.approx(likeness.token_f1, abs=1e-4)
    assert verdicts[1].chrf == pytest.approx(likeness.chrf, abs=1e-4)


def test_the_reference_judge_scores_by_similarity_and_says_so():
    judge = ReferenceJudge()
    verdict = judge.judge(answer("x", "Paris it is"))
    assert verdict.score == compare("Paris it is", "Paris").similarity
    assert verdict.raw_reply == verdict.problem == ""
    assert "similarity" in judge.identity["score"]


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
        judge_all(judge, {"base": [answer("r0", "x"), answer("r1", "y")], "tuned": tuned})
    assert judge.asked == []


@pytest.mark.parametrize("records", [[], [answer("r0", "a"), answer("r0", "b")]])
def test_no_records_and_one_id_twice_are_refused(records):
    with pytest.raises(DataError, match="no record, or one id twice"):
        judge_all(ScriptedJudge(), {"base": records, "tuned": list(records)})


def test_too_many_verdicts_without_score_stop_with_the_replies_shown():
    verdicts = judgements([50.0] * 7, [50.0] * 7) + [
        judgement(f"u{i}", "tuned", None, problem="no number", raw_reply=f"reply {i}\n" + "x" * 500) for i in range(6)
    ]
    with pytest.raises(JudgeError) as caught:
        check_unscored(verdicts, 0.25)
    message = str(caught.value)
    assert message.startswith("6 of 20 verdicts have no score, more than evaluate.max_unscored 0.25 allows")
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
    metrics = summarise(judgements([10, None, 30, None], [None, 60, 90, 30]), IDENTITY, evaluate_params())
    assert (metrics["base"]["mean"], metrics["base"]["scored"], metrics["base"]["unscored"]) == (20, 2, 2)
    assert (metrics["tuned"]["mean"], metrics["tuned"]["scored"], metrics["tuned"]["unscored"]) == (60, 3, 1)
    # Only the third record has a score for both.
    assert metrics["difference"]["count"] == 1
    assert metrics["difference"]["mean"] == 60
    assert metrics["judge"] == IDENTITY


def test_a_score_of_zero_is_a_score():
    metrics = summarise(judgements([0, 0], [0.0, None]), IDENTITY, evaluate_params())
    assert (metrics["base"]["mean"], metrics["base"]["scored"], metrics["base"]["unscored"]) == (0, 2, 0)
    assert (metrics["tuned"]["mean"], metrics["tuned"]["scored"]) == (0, 1)
    assert metrics["difference"]["count"] == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17, 100])
def test_quartiles_are_numpys(count):
    rng = random.Random(count)
    scores = [round(rng.uniform(0, 100), 2) for _ in range(count)]
    metrics = summarise(judgements(scores, scores), IDENTITY, evaluate_params())["base"]
    expected = np.percentile(scores, [25, 50, 75])
    assert (metrics["q1"], metrics["median"], metrics["q3"]) == pytest.approx(tuple(expected), abs=1e-4)


def test_intervals_and_difference_are_those_of_the_statistics():
    base, tuned = [10.0, 40.0, 35.0, 80.0, 55.0], [30.0, 40.0, 90.0, 70.0, 95.0]
    params = evaluate_params(resamples=1000, seed=9)
    metrics = summarise(judgements(base, tuned), IDENTITY, params)
    interval = mean_interval(tuned, resamples=1000, seed=9)
    assert (metrics["tuned"]["low"], metrics["tuned"]["high"]) == pytest.approx((interval.low, interval.high), abs=1e-4)
    paired = paired_test(base, tuned, resamples=1000, seed=9)
    difference = metrics["difference"]
    assert difference["p_value"] == pytest.approx(paired.p_value, abs=1e-6)
    assert difference["mean"] == pytest.approx(21.0)
    assert (difference["wins"], difference["ties"], difference["losses"]) == (3, 1, 1)


def test_pairs_are_made_by_record_and_not_by_place_among_the_scored():
    metrics = summarise(judgements([None, 10, 50], [90, None, 50]), IDENTITY, evaluate_params())
    assert metrics["difference"] == {
        "count": 1, "mean": 0, "low": 0, "high": 0, "p_value": 1, "wins": 0, "ties": 1, "losses": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("base", "tuned"), [([None, None], [None, None]), ([None, None], [1.0, 2.0]), ([None, 5.0], [5.0, None])]
)
def test_what_does_not_exist_is_absent_and_never_null(base, tuned):
    metrics = summarise(judgements(base, tuned), IDENTITY, evaluate_params())
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
    metrics = summarise(judgements(*scores), IDENTITY, evaluate_params())
    for name, leaf in leaves(metrics).items():
        assert type(leaf) in (int, float, str), name
        assert not isinstance(leaf, float) or (math.isfinite(leaf) and leaf == round(leaf, 6)), name
        assert math.copysign(1, leaf) == 1 if leaf == 0 else True, f"{name} is -0.0"


def test_every_way_to_stop_is_counted():
    reasons = ["end_of_text", "length", "repetition", "stop_string", "length", "something new"]
    verdicts = [
        judgement(f"r{i}", system, 1.0, stop_reason=reason)
        for system in ("base", "tuned")
        for i, reason in enumerate(reasons)
    ]
    stopped = summarise(verdicts, IDENTITY, evaluate_params())["base"]["stopped"]
    assert sum(stopped.values()) == len(reasons)
    assert (stopped["length"], stopped["something new"], stopped["end_of_text"]) == (2, 1, 1)
    none_cut = summarise(judgements([1.0], [1.0]), IDENTITY, evaluate_params())["base"]["stopped"]
    assert none_cut == {"end_of_text": 1, "stop_string": 0, "length": 0, "repetition": 0}


def test_the_same_answers_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        verdicts = judge_all(ReferenceJudge(), both("Paris", "It is Paris.", "Lyon"))
        write_json(tmp_path / name, summarise(verdicts, ReferenceJudge().identity, evaluate_params()))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert json.loads((tmp_path / "one").read_text(encoding="utf-8"))["tuned"]["scored"] == 3

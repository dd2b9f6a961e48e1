import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation.answers import ScriptedJudge, answer, evaluate_params

from instruct.core.errors import DataError, JudgeError, ParamsError
from instruct.core.files import write_json
from instruct.core.records import Turn
from instruct.evaluation.controls import Fitness
from instruct.evaluation.judges.base import Identity
from instruct.evaluation.judges.reference import ReferenceJudge
from instruct.evaluation.measured import score_all
from instruct.evaluation.reference import compare
from instruct.evaluation.score import Judgement, check_answers, check_unscored, judge_all, scores_of
from instruct.evaluation.summary import describe_system, describe_test, judge_scores, make_table, summarise
from instruct.evaluation.systems import Systems, name_systems
from instruct.results.schema import JudgeResults, Unscored, dump
from instruct.results.scores import Difference
from instruct.statistics import mean_interval, paired_test
from instruct.text.prompts import PromptParams

PROMPT = PromptParams(template="alpaca", system="default")
IDENTITY = Identity(about={"judge": "reference", "score": "similarity to the reference answer"})
FIT = Fitness(scores={"reference": 100.0}, count=1, unscored=0, problems=())


def summary_of(verdicts, params, groups=None) -> JudgeResults:
    """What becomes of verdicts on two systems' answers."""
    answers = {
        system: [answer(one.id, "x", group=(groups or {}).get(one.id, "")) for one in verdicts if one.system == system]
        for system in dict.fromkeys(one.system for one in verdicts)
    }
    return whole_results(answers, verdicts, {"one": (IDENTITY, FIT)}, params=params).judges[0]


def whole_results(answers, verdicts, judged_by, human=None, params=None):
    systems = Systems(files=dict.fromkeys(answers, Path(__file__)), baselines=tuple(answers)[:1])
    people = human or {system: {} for system in answers}
    params = params or evaluate_params()
    return summarise(verdicts, judged_by, answers, systems, score_all(answers, {}), {}, people, PROMPT, params)


def test_near_duplicates_are_counted_as_one_for_intervals_and_tests():
    verdicts = judgements([10.0] * 6 + [50.0] * 2, [30.0] * 6 + [40.0] * 2)
    alone = summary_of(verdicts, evaluate_params())
    groups = {f"r{i}": "same" if i < 6 else f"r{i}" for i in range(8)}
    grouped = summary_of(verdicts, evaluate_params(), groups)
    assert grouped.scores_of("sft").mean == alone.scores_of("sft").mean
    assert grouped.difference_of("sft").p_value > alone.difference_of("sft").p_value
    assert grouped.difference_of("sft").high - grouped.difference_of("sft").low > (
        alone.difference_of("sft").high - alone.difference_of("sft").low
    )


def test_copies_of_every_record_make_no_mean_surer():
    base, sft = [10.0, 35.0, 80.0, 55.0, 20.0, 90.0, 45.0], [30.0, 60.0, 75.0, 95.0, 40.0, 100.0, 65.0]
    alone = summary_of(judgements(base, sft), evaluate_params())
    groups = {f"r{i}": f"g{i // 3}" for i in range(21)}
    copied = summary_of(judgements(*(np.repeat(one, 3).tolist() for one in (base, sft))), evaluate_params(), groups)
    for system in ("base", "sft"):
        one, other = alone.scores_of(system), copied.scores_of(system)
        assert (one.mean, one.low, one.high) == (other.mean, other.low, other.high)
        assert (one.scored, other.scored) == (7, 21)


def judgement(id, system, score, *, problem="", raw_reply="", **fields):
    values = {"judge": "one", "kind": "", "failed": int(score is None), **fields}
    return Judgement(id=id, system=system, score=score, problem=problem, raw_reply=raw_reply, **values)


def judgements(base, sft):
    return [
        judgement(f"r{i}", system, score)
        for system, scores in (("base", base), ("sft", sft))
        for i, score in enumerate(scores)
    ]


def both(*texts):
    return {"base": [answer(f"r{i}", text) for i, text in enumerate(texts)],
            "sft": [answer(f"r{i}", text + "!") for i, text in enumerate(texts)]}  # fmt: skip


def leaves(value, path=""):
    """The numbers and words of a document by their place."""
    if isinstance(value, list | tuple):
        value = {str(place): one for place, one in enumerate(value)}
    if isinstance(value, dict):
        return {name: leaf for key, one in value.items() for name, leaf in leaves(one, f"{path}.{key}").items()}
    return {path: value}


def test_every_answer_of_every_system_is_judged_in_order_by_every_judge():
    one, other = ScriptedJudge(10, "what?", 30, 40, 50, ""), ScriptedJudge(1, 2, 3, 4, 5, 6)
    verdicts = judge_all({"one": one, "other": other}, both("a", "b", "c"))
    order = [(s, f"r{i}") for s in ("base", "sft") for i in range(3)]
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
    "sft",
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
def test_systems_that_answered_different_records_are_refused_before_any_verdict(sft):
    judge = ScriptedJudge()
    with pytest.raises(DataError, match="different records"):
        judge_all({"one": judge}, {"base": [answer("r0", "x"), answer("r1", "y")], "sft": sft})
    assert judge.asked == []


@pytest.mark.parametrize("records", [[], [answer("r0", "a"), answer("r0", "b")]])
def test_no_records_and_one_id_twice_are_refused(records):
    with pytest.raises(DataError, match="no record, or one id twice"):
        check_answers({"base": records, "sft": list(records)})


def test_too_many_verdicts_without_score_stop_with_the_replies_shown():
    verdicts = judgements([50.0] * 7, [50.0] * 7) + [
        judgement(f"u{i}", "sft", None, problem="no number", raw_reply=f"reply {i}\n" + "x" * 500) for i in range(6)
    ]
    with pytest.raises(JudgeError) as caught:
        check_unscored(verdicts, 0.25)
    message = str(caught.value)
    assert message.startswith("one: 6 of 20 verdicts have no score, more than evaluate.max_unscored 0.25 allows")
    for i in range(5):
        assert f"sft u{i}: no number: reply {i}\\n" in message
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


def counted(metrics, system):
    one = metrics.scores_of(system)
    return one.mean, one.scored, one.unscored


def test_means_are_over_the_scored_and_the_others_are_counted():
    metrics = summary_of(judgements([10, None, 30, None], [None, 60, 90, 30]), evaluate_params())
    assert counted(metrics, "base") == (20, 2, 2)
    assert counted(metrics, "sft") == (60, 3, 1)
    # Only the third record has a score for both.
    assert metrics.difference_of("sft").count == 1
    assert metrics.difference_of("sft").mean == 60
    assert metrics.identity == IDENTITY.about


def test_a_score_of_zero_is_a_score():
    metrics = summary_of(judgements([0, 0], [0.0, None]), evaluate_params())
    assert counted(metrics, "base") == (0, 2, 0)
    assert (metrics.scores_of("sft").mean, metrics.scores_of("sft").scored) == (0, 1)
    assert metrics.difference_of("sft").count == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17, 100])
def test_quartiles_are_numpys(count):
    rng = random.Random(count)
    scores = [round(rng.uniform(0, 100), 2) for _ in range(count)]
    metrics = summary_of(judgements(scores, scores), evaluate_params()).scores_of("base")
    expected = np.percentile(scores, [25, 50, 75])
    assert (metrics.q1, metrics.median, metrics.q3) == pytest.approx(tuple(expected), abs=1e-4)


def test_intervals_and_difference_are_those_of_the_statistics():
    base, sft = [10.0, 40.0, 35.0, 80.0, 55.0], [30.0, 40.0, 90.0, 70.0, 95.0]
    params = evaluate_params(resamples=1000, seed=9)
    metrics = summary_of(judgements(base, sft), params)
    interval = mean_interval(sft, resamples=1000, seed=9)
    assert (metrics.scores_of("sft").low, metrics.scores_of("sft").high) == pytest.approx(
        (interval.low, interval.high), abs=1e-4
    )
    paired = paired_test(base, sft, resamples=1000, seed=9)
    difference = metrics.difference_of("sft")
    assert difference.p_value == pytest.approx(paired.p_value, abs=1e-6)
    assert difference.mean == pytest.approx(21.0)
    assert (difference.wins, difference.ties, difference.losses) == (3, 1, 1)


def test_pairs_are_made_by_record_and_not_by_place_among_the_scored():
    metrics = summary_of(judgements([None, 10, 50], [90, None, 50]), evaluate_params())
    assert metrics.difference_of("sft") == Difference(
        system="sft", against="base",
        count=1, mean=0, low=-100, high=100, p_value=1, wins=0, ties=1, losses=0,
        # base 0, 10, 50 and sft 90, 100, 50 at best; base 100, 10, 50 and sft 90, 0, 50 at worst
        best_case=pytest.approx((90 + 90 + 0) / 3, abs=1e-4),
        worst_case=pytest.approx((-10 - 10 + 0) / 3, abs=1e-4),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("base", "sft"), [([None, None], [None, None]), ([None, None], [1.0, 2.0]), ([None, 5.0], [5.0, None])]
)
def test_what_does_not_exist_is_absent_and_never_null(base, sft):
    metrics = summary_of(judgements(base, sft), evaluate_params())
    assert metrics.difference_of("sft") == Difference(system="sft", against="base", count=0)
    for system, scores in (("base", base), ("sft", sft)):
        assert (metrics.scores_of(system).mean is None) == (set(scores) == {None})
        assert metrics.scores_of(system).unscored == scores.count(None)


@pytest.mark.parametrize(
    "scores",
    [
        ([1 / 3, 77.77777, None], [2 / 3, 0.1, 100.0]),
        ([0.00002, 1.0], [0.0, 1.0]),  # their difference rounds to -0.0
        ([None] * 3, [None] * 3),
    ],
)
def test_results_hold_only_short_finite_numbers_and_words(scores):
    verdicts = judgements(*scores)
    answers = both(*"abc"[: len(scores[0])])
    for name, leaf in leaves(dump(whole_results(answers, verdicts, {"one": (IDENTITY, FIT)}))).items():
        assert type(leaf) in (int, float, str, bool), name
        assert not isinstance(leaf, float) or (math.isfinite(leaf) and leaf == round(leaf, 6)), name
        assert math.copysign(1, leaf) == 1 if leaf == 0 else True, f"{name} is -0.0"


def test_every_way_to_stop_is_counted():
    reasons = ["end_of_text", "length", "repetition", "stop_string", "length", "something new"]
    stopped = stopped_of([answer(f"r{i}", "x", stop_reason=one) for i, one in enumerate(reasons)])
    assert sum(stopped.values()) == len(reasons)
    assert (stopped["length"], stopped["something new"], stopped["end_of_text"]) == (2, 1, 1)
    assert stopped_of([answer("r0", "x")]) == {"end_of_text": 1, "stop_string": 0, "length": 0, "repetition": 0}


def stopped_of(responses):
    return describe_system("base", Path(__file__), responses, score_all({"base": responses}, {})).stopped


def test_what_has_no_score_bounds_the_mean_from_both_sides():
    metrics = summary_of(judgements([10, None, 30, None], [50, 60, 90, 30]), evaluate_params())
    assert metrics.scores_of("base").worst_case == (10 + 0 + 30 + 0) / 4
    assert metrics.scores_of("base").best_case == (10 + 100 + 30 + 100) / 4
    assert metrics.scores_of("sft").worst_case == metrics.scores_of("sft").mean == metrics.scores_of("sft").best_case
    assert metrics.difference_of("sft").worst_case == (230 - 240) / 4
    assert metrics.difference_of("sft").best_case == (230 - 40) / 4


def test_unscored_answers_are_listed_with_reply_and_cause():
    verdicts = [judgement("r0", "base", None, problem="no score", raw_reply="x" * 900), judgement("r0", "sft", 1.0)]
    assert summary_of(verdicts, evaluate_params()).unscored == (
        Unscored(id="r0", system="base", problem="no score", raw_reply="x" * 500),
    )


def test_spread_over_repeats_is_summed_up_and_lost_repeats_are_counted():
    verdicts = [
        judgement("r0", "base", 15.0, spread=5.0, replies=("10", "20", "?"), failed=1),
        judgement("r1", "base", 60.0, spread=0.0, replies=("60", "60", "60")),
        judgement("r0", "sft", 1.0),
        judgement("r1", "sft", 1.0),
    ]
    base, sft = summary_of(verdicts, evaluate_params()).systems
    assert (base.mean_spread, base.flipped, base.failed_repeats) == (2.5, 0.5, 1)
    assert sft.mean_spread is None


def test_the_share_of_flipped_verdicts_is_of_those_that_have_a_score():
    steady, unsteady = {"spread": 0.0}, {"spread": 4.0}
    verdicts = [
        judgement(f"r{i}", system, score, **spread)
        for system in ("base", "sft")
        for i, (score, spread) in enumerate(
            [(10.0, steady), (20.0, unsteady), (30.0, unsteady), (None, {}), (40.0, steady)]
        )
    ]
    for one in summary_of(verdicts, evaluate_params()).systems:
        assert (one.scored, one.unscored, one.flipped, one.mean_spread) == (4, 1, 0.5, 2.0)


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
    metrics = summary_of([*verdicts, *(judgement(f"r{i}", "sft", 1.0) for i in range(4))], evaluate_params())
    assert (metrics.scores_of("base").orders, metrics.scores_of("base").consistent) == (3, 2)
    assert metrics.scores_of("base").first_place_won == 0.75  # of four that name a winner three say A


def bias_of(orders):
    """What is found of pairs judged in these orders."""
    verdicts = [judgement(f"r{i}", "base", 50.0, choices=choices) for i, choices in enumerate(orders)]
    others = [judgement(f"r{i}", "sft", 50.0) for i in range(len(orders))]
    return summary_of([*verdicts, *others], evaluate_params()).scores_of("base")


def test_ties_do_not_hide_or_make_a_preference_for_the_first_place():
    for ties in (0, 5, 50):
        tied = ties * [("tie", "tie")]
        assert bias_of([("A", "B"), ("B", "A"), ("A", "A"), ("B", "B"), *tied]).first_place_won == 0.5
        assert bias_of([("A", "tie"), ("tie", "A"), ("A", "A"), *tied]).first_place_won == 1.0
        assert bias_of([("B", "tie"), *tied]).first_place_won == 0.0


def test_without_a_winner_nothing_is_said_of_the_first_place():
    found = bias_of([("tie", "tie"), ("none", "A")])
    assert (found.orders, found.consistent, found.first_place_won) == (1, 1, None)


def test_orders_agree_where_one_answer_wins_in_both_places_and_not_where_one_place_does():
    said = [("A", "B"), ("B", "A"), ("A", "A"), ("A", "A"), ("B", "B"), ("tie", "A"), ("A", "none")]
    verdicts = [judgement(f"r{i}", "base", 50.0, choices=pair) for i, pair in enumerate(said)]
    found = summary_of([*verdicts, *(judgement(f"r{i}", "sft", 1.0) for i in range(7))], evaluate_params())
    base = found.scores_of("base")
    assert (base.orders, base.consistent, base.first_place_won) == (6, 2, round(7 / 11, 4))


def test_the_test_set_is_named_by_its_content():
    records = [answer("r0", "x"), answer("r1", "y")]
    found = describe_test(records, "alpaca")
    assert found.records == 2
    assert describe_test([answer("r0", "other"), answer("r1", "answers")], "alpaca") == found
    assert describe_test(records[::-1], "alpaca") == found
    for other in (
        [records[0]],
        [records[0], answer("r1", "y", input="z")],
        [records[0], answer("r2", "y")],
        [records[0], replace(records[1], history=(Turn("Hi", "", "Yo"),))],
        [records[0], replace(records[1], system="Be brief.")],
    ):
        assert describe_test(other, "alpaca").sha256 != found.sha256
    named = [
        ("alpaca", "default"),
        ("phi3", "default"),
        *(("chatml", system) for system in ("default", "", "Be brief.")),
    ]
    assert len({describe_test(records, *one).template_sha256 for one in named}) == 5
    # Runs of before these templates had a name for their system prompt are still runs of the same template.
    assert found.template_sha256 == "ebde3ce58121d6f274f3ac98c0c326b9343bac140da9d1523fd57bc915e73f9f"


def judged(answers, human=None, **judges):
    verdicts = judge_all(judges, answers)
    judged_by = {name: (judge.identity, FIT) for name, judge in judges.items()}
    return verdicts, whole_results(answers, verdicts, judged_by, human)


def test_judges_and_people_are_held_against_each_other_within_each_system():
    human = {"base": {"r0": 10.0, "r1": None}, "sft": {"r0": 30.0, "r1": 90.0}}
    _, results = judged(both("a", "b"), human, one=ScriptedJudge(20, 40, 60, 80), two=ScriptedJudge(20, 40, 60, "?"))
    found = {(one.first, one.second, one.system): one for one in results.agreement}
    assert {key[:2] for key in found} == {("one", "two"), ("one", "human"), ("two", "human")}
    assert {system: found["one", "two", system].count for system in human} == {"base": 2, "sft": 1}
    assert {system: found["one", "human", system].count for system in human} == {"base": 1, "sft": 2}
    assert found["one", "human", "sft"].mean_difference == pytest.approx((30 - 10) / 2, abs=1e-4)
    assert [judge.name for judge in results.judges] == ["one", "two"]  # people are not a judge of a run
    assert results.judges[0].controls.fit is True


def test_one_judge_alone_agrees_with_nobody():
    assert judged(both("a"), one=ScriptedJudge(20, 40))[1].agreement == ()


def test_any_number_of_systems_is_judged_and_each_is_compared_with_the_first():
    answers = {**both("a", "b"), "dpo": [answer("r0", "a?"), answer("r1", "b?")]}
    _, results = judged(answers, one=ScriptedJudge(10, 20, 30, 40, 60, 80))
    (judge,) = results.judges
    assert (results.names, results.against, results.primary) == (("base", "sft", "dpo"), "base", "dpo")
    assert [one.mean for one in judge.systems] == [15, 35, 70]
    assert [(one.system, one.against, one.mean) for one in judge.differences] == [
        ("sft", "base", 20),
        ("dpo", "base", 55),
    ]


@pytest.mark.parametrize(
    "given", [["base=a"], ["base=a", "b"], ["base=a", "base=b"], ["base=a", "=b"], ["base=a", "b="], ["base=a", "b=/c"]]
)
def test_systems_are_named_files_or_refused(given):
    with pytest.raises(ParamsError):
        name_systems([Path(one) for one in given])


def test_a_score_that_does_not_exist_is_none_in_the_table():
    answers = both("Paris", "b")
    verdicts, _ = judged(answers, one=ScriptedJudge(0, "?", 60.5, 80))
    table = make_table(answers, judge_scores(verdicts, ["one"]), {}, score_all(answers, {}))
    assert table.scores["one"] == {"base": {"r0": 0, "r1": None}, "sft": {"r0": 60.5, "r1": 80}}
    assert (table.scores["exact_match"]["base"]["r0"], table.scores["similarity"]["base"]["r0"]) == (100, 100)
    assert table.scores["chrf"]["sft"]["r1"] == pytest.approx(compare("b!", "Paris").chrf, abs=1e-4)


def test_the_same_answers_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        _, results = judged(both("Paris", "It is Paris.", "Lyon"), reference=ReferenceJudge())
        write_json(tmp_path / name, dump(results))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

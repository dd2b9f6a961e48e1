from dataclasses import replace

import pytest
from results.sample import make_run, make_scores

from instruct.report.stop_or_go import Movement, loss_trend, stop_or_go
from instruct.results.schema import MeasureResults
from instruct.results.scores import Difference, SystemScores

TRAIN = {"initial_val_loss": 1.84}
FALLING, FLAT, TURNED = (2.0, 1.5, 1.2), (2.0, 1.005, 1.0), (2.0, 1.0, 1.2)
SCORES = {"reference": {"base": [1.0], "sft": [2.0]}}


def curve(losses):
    return [{"step": float(i), "loss": float(loss)} for i, loss in enumerate(losses)]


def judged(mean, difference, p_value=0.001, *, width=4.0, unscored=0, **sft):
    """The primary system's scores, and its difference from the first."""
    about = {"low": mean - 3, "high": mean + 3, "q1": mean, "median": mean, "q3": mean}
    about |= {"worst_case": mean, "best_case": mean}
    scores = SystemScores(system="sft", scored=100, unscored=unscored, mean=mean, **about, **sft)
    ends = {"low": difference - width, "high": difference + width, "worst_case": difference, "best_case": difference}
    counts = {"count": 100, "wins": 50, "ties": 10, "losses": 40}
    gain = Difference(system="sft", against="base", mean=difference, p_value=p_value, **ends, **counts)
    return scores, gain


def rows_of(train, losses, judge, movement=None, right=None):
    run = make_run("run", SCORES | ({"accuracy": SCORES["reference"]} if right else {}), train=train)
    scores, gain = judge
    of_judge = replace(run.results.main_judge, systems=(run.results.main_judge.systems[0], scores), differences=(gain,))
    if right:
        systems = (make_scores("base", [1.0]), right[0])
        measured = MeasureResults(name="accuracy", systems=systems, differences=(right[1],), slices=())
        run = replace(run, results=replace(run.results, measured=(measured,)))
    return stop_or_go(replace(run, curves={"val": curve(losses)}), of_judge, movement)


def moved(verdict):
    return Movement(verdict=verdict, numbers="as compared")


NOTHING = SystemScores(system="sft", scored=0, unscored=9), Difference(system="sft", against="base", count=0)


@pytest.mark.parametrize(
    ("losses", "judge", "movement", "step"),
    [
        (FLAT, judged(52, 24), None, "more data"),
        (FLAT, judged(85, 50), None, "preference tuning"),
        (FLAT, judged(52, 24), moved("not distinguishable"), "preference tuning"),
        (FLAT, judged(52, 24), moved("better"), "more data"),
        (FALLING, judged(85, 50), None, "longer training"),
        (TURNED, judged(85, 50), None, "shorter training"),
        (FLAT, judged(30, 1, 0.6), None, "more data"),
        (FLAT, judged(20, -9), None, "more data"),
        (FLAT, judged(30, 1, 0.8, width=8.0), None, "better judging"),
        (FLAT, judged(52, 24, width=8.0), None, "better judging"),
        (FLAT, judged(20, -40, width=8.0), None, "more data"),
        (TURNED, judged(20, -40, width=8.0), None, "shorter training"),
        (FLAT, judged(20, -40, width=8.0, unscored=6), None, "better judging"),
        ((1.84, 1.84, 1.84), judged(30, 1, 0.6), None, "longer training"),
        (TURNED, judged(52, 24, unscored=6), None, "better judging"),
        (TURNED, judged(52, 24, mean_spread=45.0), None, "better judging"),
        (FLAT, NOTHING, None, "better judging"),
    ],
)
def test_the_next_step_is_the_first_rule_that_holds(losses, judge, movement, step):
    rows = rows_of(TRAIN, losses, judge, movement)
    assert [row.signal for row in rows] == [
        "loss trend",
        "answer quality",
        "score plateau",
        "score noise",
        "next step",
    ]
    assert rows[-1].finding == step
    assert all(row.rule and row.numbers and row.suggestion for row in rows)


def test_findings_show_the_numbers_that_they_rest_on():
    trend, quality, plateau, noise, _ = rows_of(TRAIN, TURNED, judged(52, 24), moved("better"))
    assert (trend.finding, trend.numbers) == (
        "turned",
        "lowest 1.000, last but one 1.000, last 1.200 nats per supervised token",
    )
    assert (quality.finding, quality.numbers) == ("better, not yet good", "mean 52.0, difference +24.0, p = 0.001")
    assert (plateau.finding, plateau.numbers) == ("rising", "as compared")
    assert (noise.finding, noise.numbers) == ("quiet", "0.0% without a score, difference in reference +24.0 ± 4.0")


def test_noise_is_measured_on_the_score_that_is_acted_on():
    """A narrow interval by the judge says nothing of right answers, nor the other way round."""
    narrow, wide = judged(52, 12, width=2.8), judged(28, 9.5, width=5.4)
    *_, noise, step = rows_of(TRAIN, FALLING, narrow, right=wide)
    assert noise.finding == "noisy: the interval is wide" and "+9.5 ± 5.4" in noise.numbers
    assert noise.suggestion == "more test records" and step.finding == "better judging"
    *_, noise, step = rows_of(TRAIN, FALLING, wide, right=narrow)
    assert (noise.finding, step.finding) == ("quiet", "longer training")


def test_no_other_judge_is_advised_if_a_score_by_rule_has_a_wide_interval():
    """The judge `reference` is similarity: asked again, or with another rubric, it gives the same scores."""
    *_, noise, step = rows_of(TRAIN, FLAT, judged(52, 4, 0.2, width=8.0))
    assert noise.finding == "noisy: the interval is wide" and noise.suggestion in step.suggestion
    for row in (noise, step):
        assert "test records" in row.suggestion and "split.checks" in row.suggestion
        assert not any(word in row.suggestion for word in ("judge", "rubric", "repeats"))


def test_a_judge_that_leaves_much_unscored_is_noisy_beside_right_answers():
    *_, noise, _ = rows_of(TRAIN, FLAT, judged(52, 24, unscored=6), right=judged(28, 9.5))
    assert noise.finding == "noisy: too many without a score" and "judge" in noise.suggestion


@pytest.mark.parametrize(
    ("losses", "judge", "words"),
    [
        (FLAT, judged(52, 24), "loss trend flat, and answers are better, but not yet good"),
        ((1.84, 1.2), judged(52, 24), "loss trend unknown, and answers are better, but not yet good"),
        ((1.84, 1.2), judged(30, 1, 0.6), "loss went from 1.840 to 1.200 and answers did not follow"),
    ],
)
def test_the_reason_says_only_what_is_known(losses, judge, words):
    assert rows_of(TRAIN, losses, judge)[-1].suggestion == words


def test_one_percent_is_the_edge_between_flat_and_a_trend():
    assert loss_trend(curve([2, 1.0, 1.01])).finding == "flat"
    assert loss_trend(curve([2, 1.0, 1.0101])).finding == "turned"
    assert loss_trend(curve([2, 1.01, 1.0])).finding == "flat"
    assert loss_trend(curve([2, 1.0101, 1.0])).finding == "falling"


@pytest.mark.parametrize("losses", [(), (1.8,), (1.8, 1.2)])
def test_a_trend_of_fewer_than_three_evaluations_is_unknown(losses):
    row = loss_trend(curve(losses))
    assert (row.finding, row.numbers) == ("unknown", f"{len(losses)} evaluations")


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("train", "losses", "judge", "movement", "unknown"),
    [
        (TRAIN, (2.0, NAN, 1.0), judged(52, 24), None, {"loss trend", "score plateau", "next step"}),
        (TRAIN, (2.0, 1.0, INFINITE), judged(52, 24), None, {"loss trend", "score plateau", "next step"}),
        ({"initial_val_loss": NAN}, FLAT, judged(52, 24), moved("better"), {"next step"}),
        ({"initial_val_loss": None}, FLAT, judged(52, 24), moved("better"), {"next step"}),
        ({"initial_val_loss": "1.84"}, FLAT, judged(52, 24), moved("better"), {"next step"}),
    ],
)
def test_what_is_no_number_is_unknown_and_never_a_finding(train, losses, judge, movement, unknown):
    rows = rows_of(train, losses, judge, movement)
    assert {row.signal for row in rows if row.finding == "unknown"} == unknown
    assert "nan" not in " ".join(row.numbers for row in rows)


@pytest.mark.parametrize(
    ("verdict", "finding"), [("better", "rising"), ("worse", "falling"), ("not distinguishable", "plateau")]
)
def test_a_comparison_decides_the_plateau(verdict, finding):
    row = rows_of(TRAIN, FLAT, judged(52, 24), moved(verdict))[2]
    assert (row.finding, row.numbers) == (finding, "as compared")

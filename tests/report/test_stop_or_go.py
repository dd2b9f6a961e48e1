import pytest

from instruct.report.stop_or_go import Movement, loss_trend, stop_or_go

TRAIN = {"initial_val_loss": 1.84}
FALLING, FLAT, TURNED = (2.0, 1.5, 1.2), (2.0, 1.005, 1.0), (2.0, 1.0, 1.2)


def curve(losses):
    return [{"step": str(i), "loss": str(loss)} for i, loss in enumerate(losses)]


def judged(mean, difference, p_value=0.001, *, width=4.0, unscored=0, **tuned):
    return {
        "tuned": {"mean": mean, "low": mean - 3, "high": mean + 3, "scored": 100, "unscored": unscored, **tuned},
        "difference": {
            "mean": difference,
            "low": difference - width,
            "high": difference + width,
            "p_value": p_value,
        },
    }


@pytest.mark.parametrize(
    ("losses", "judge", "previous", "step"),
    [
        (FLAT, judged(52, 24), None, "more data"),
        (FLAT, judged(85, 50), None, "preference tuning"),
        (FLAT, judged(52, 24), judged(51, 23), "preference tuning"),
        (FLAT, judged(52, 24), judged(40, 12), "more data"),
        (FALLING, judged(85, 50), None, "longer training"),
        (TURNED, judged(85, 50), None, "shorter training"),
        (FLAT, judged(30, 1, 0.6), None, "more data"),
        (FLAT, judged(20, -9), None, "more data"),
        (FLAT, judged(30, 1, 0.8, width=8.0), None, "better judging"),
        (FLAT, judged(52, 24, width=8.0), None, "better judging"),
        ((1.84, 1.84, 1.84), judged(30, 1, 0.6), None, "longer training"),
        (TURNED, judged(52, 24, unscored=6), None, "better judging"),
        (TURNED, judged(52, 24, mean_spread=45.0), None, "better judging"),
        (FLAT, {"tuned": {"scored": 0, "unscored": 9}, "difference": {"count": 0}}, None, "better judging"),
    ],
)
def test_the_next_step_is_the_first_rule_that_holds(losses, judge, previous, step):
    rows = stop_or_go(TRAIN, curve(losses), judge, previous)
    assert [row.signal for row in rows] == [
        "loss trend",
        "answer quality",
        "score plateau",
        "judge noise",
        "next step",
    ]
    assert rows[-1].finding == step
    assert all(row.rule and row.numbers and row.suggestion for row in rows)


def test_findings_show_the_numbers_that_they_rest_on():
    trend, quality, plateau, noise, _ = stop_or_go(TRAIN, curve(TURNED), judged(52, 24), judged(44, 16))
    assert (trend.finding, trend.numbers) == (
        "turned",
        "lowest 1.000, last but one 1.000, last 1.200 nats per supervised token",
    )
    assert (quality.finding, quality.numbers) == ("better, not yet good", "mean 52.0, difference +24.0, p = 0.001")
    assert (plateau.finding, plateau.numbers) == ("rising", "mean 44.0 before, 52.0 (49.0 to 55.0) now")
    assert (noise.finding, noise.numbers) == ("quiet", "0.0% without a score, difference +24.0 ± 4.0")


@pytest.mark.parametrize(
    ("losses", "judge", "words"),
    [
        (FLAT, judged(52, 24), "loss trend flat, and answers are better, but not yet good"),
        ((1.84, 1.2), judged(52, 24), "loss trend unknown, and answers are better, but not yet good"),
        ((1.84, 1.2), judged(30, 1, 0.6), "loss went from 1.840 to 1.200 and answers did not follow"),
    ],
)
def test_the_reason_says_only_what_is_known(losses, judge, words):
    assert stop_or_go(TRAIN, curve(losses), judge)[-1].suggestion == words


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
    ("train", "losses", "judge", "previous", "unknown"),
    [
        (TRAIN, (2.0, NAN, 1.0), judged(52, 24), None, {"loss trend", "score plateau", "next step"}),
        (TRAIN, (2.0, 1.0, INFINITE), judged(52, 24), None, {"loss trend", "score plateau", "next step"}),
        ({"initial_val_loss": NAN}, FLAT, judged(52, 24), judged(40, 12), {"next step"}),
        ({"initial_val_loss": None}, FLAT, judged(52, 24), judged(40, 12), {"next step"}),
        ({"initial_val_loss": "1.84"}, FLAT, judged(52, 24), judged(40, 12), {"next step"}),
        (TRAIN, FLAT, judged(NAN, 24), judged(40, 12), {"answer quality", "score plateau"}),
        (TRAIN, FLAT, judged(52, NAN), judged(40, 12), {"answer quality", "judge noise"}),
        (TRAIN, FLAT, judged(52, 24, NAN), judged(40, 12), {"answer quality"}),
        (TRAIN, FLAT, judged(52, 24, None), judged(40, 12), {"answer quality"}),
        (TRAIN, FLAT, judged(52, 24), judged(INFINITE, 12), {"score plateau"}),
    ],
)
def test_what_is_no_number_is_unknown_and_never_a_finding(train, losses, judge, previous, unknown):
    rows = stop_or_go(train, curve(losses), judge, previous)
    assert {row.signal for row in rows if row.finding == "unknown"} == unknown
    assert "nan" not in " ".join(row.numbers for row in rows)


@pytest.mark.parametrize("field", ["mean", "low", "high", "p_value"])
@pytest.mark.parametrize("value", ["text", None, True, [1]])
def test_a_difference_of_another_kind_is_unknown(field, value):
    judge = judged(52, 24)
    judge["difference"][field] = value
    _, quality, _, noise, step = stop_or_go(TRAIN, curve(FLAT), judge)
    assert (quality if field in ("mean", "p_value") else noise).finding == "unknown"
    assert step.finding == "better judging"


@pytest.mark.parametrize(
    ("verdict", "finding"), [("better", "rising"), ("worse", "falling"), ("not distinguishable", "plateau")]
)
@pytest.mark.parametrize("before", [20, 52, 90])
def test_a_comparison_decides_the_plateau_whatever_the_intervals_say(verdict, finding, before):
    movement = Movement(verdict=verdict, numbers="as compared")
    row = stop_or_go(TRAIN, curve(FLAT), judged(52, 24), judged(before, 9), movement)[2]
    assert (row.finding, row.numbers) == (finding, "as compared")

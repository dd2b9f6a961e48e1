import json
from dataclasses import replace
from itertools import product
from statistics import fmean

import numpy as np
import pytest
from grids import thinned
from results.sample import PARAMS, make_results, make_table
from scipy.stats import sem, ttest_1samp

from instruct.comparing.compare import compare
from instruct.comparing.power import Spread, power_lines, power_table, records_needed, smallest_with, spread_of
from instruct.comparing.recipes import compare_recipes, smallest_between_recipes
from instruct.comparing.recorded import RECORD, rate_of_seeds_alone, read_recorded, record_seeds
from instruct.comparing.report import scope_line
from instruct.comparing.seeds import check_one_recipe, most_of_seed, split_variance, variance_lines
from instruct.core.errors import DataError, ParamsError
from instruct.results.runs import Run
from instruct.results.table import Table
from instruct.statistics import FEW, paired_test

RESULTS = make_results(make_table({"x": {"base": [1.0], "sft": [1.0]}}))


def run_of(scores, *, seed=123, judge_seed=123, name="", **train):
    params = PARAMS | {"train": {**PARAMS["train"], "seed": seed, **train}, "evaluate": {"seed": judge_seed}}
    values = {f"r{i}": None if score is None else float(score) for i, score in enumerate(scores)}
    table = Table(kinds=dict.fromkeys(values, ""), groups={id_: id_ for id_ in values}, scores={"x": {"sft": values}})
    return Run(name=name or f"seed-{seed}", params=params, results=RESULTS, table=table)


def lock_of(train="1", pairs_file="2", model="3", code="4", weights="5"):
    """A dvc.lock that says what training read, by its md5."""

    def stage(*deps):
        files = {"models/backbones.yaml": {"tiny": {"files": [{"sha256": weights}]}}}
        return {"deps": [{"path": path, "md5": md5} for path, md5 in deps], "params": files}

    return {
        "stages": {
            "train": stage(("data/augmented/train.json", train), ("src/train.py", code)),
            "pairs@dpo": stage(("data/pairs.jsonl", pairs_file), ("models/sft/best", model)),
        }
    }


def trained(seed, prefer_seed=0, methods=(), scores=(1, 2), **lock):
    run = run_of(scores, seed=seed)
    params = run.params | {"prefer": {"seed": prefer_seed, "methods": list(methods)}}
    return replace(run, params=params, lock=lock_of(**lock))


@pytest.mark.parametrize(
    ("lock", "methods", "named"),
    [
        ({"train": "9"}, (), "data/augmented/train.json"),
        ({"weights": "9"}, (), "models/backbones.yaml"),
        ({"pairs_file": "9"}, ("dpo",), "data/pairs.jsonl"),
    ],
)
def test_runs_trained_from_other_data_or_weights_are_no_seeds_of_one_recipe(lock, methods, named):
    runs = [trained(1, methods=methods), trained(2, methods=methods, **lock)]
    with pytest.raises(ParamsError, match=rf"seed-1 and seed-2: differ in more than seeds \({named}\)"):
        check_one_recipe(runs)
    with pytest.raises(ParamsError, match=named):
        compare(runs, [trained(1), trained(2)])


def test_what_another_seed_makes_of_the_same_data_is_no_other_recipe():
    """The SFT model that on-policy pairs are made by, and a file of pairs that no method reads."""
    check_one_recipe([trained(1, methods=["dpo"]), trained(2, methods=["dpo"], model="9")])
    check_one_recipe([trained(1), trained(2, pairs_file="9")])


def test_seeds_that_trained_with_other_code_are_told():
    runs = [trained(1), trained(2, scores=(3, 5), code="9")]
    assert [line for line in variance_lines(runs, []) if "src/train.py" in line]
    same = [replace(run, name=run.name + "b") for run in (trained(1, scores=(4, 4)), trained(2, scores=(5, 6)))]
    assert "src/train.py" in scope_line(compare(runs, same), {})
    assert "code" not in scope_line(compare(same, [replace(run, name="c") for run in same]), {})


def test_the_seed_of_preference_tuning_is_a_seed_only_along_with_that_of_training():
    """Two DPO models of one SFT model would make its spread look small."""
    check_one_recipe([trained(1, 1), trained(2, 2)])
    for runs in ([trained(1, 1), trained(1, 2)], [trained(1, 1), trained(2, 1), trained(2, 2)]):
        with pytest.raises(ParamsError, match=r"differ in more than seeds \(prefer.seed\)"):
            check_one_recipe(runs)


def simulate(rng, items, seeds, verdicts=1, *, item=20.0, seed=0.0, rest=0.0, judge=0.0, mean=50.0):
    by_item = rng.normal(0, item, items)
    by_seed = rng.normal(0, seed, (seeds, 1, 1))
    by_both = rng.normal(0, rest, (seeds, 1, items))
    return mean + by_item + by_seed + by_both + rng.normal(0, judge, (seeds, verdicts, items))


def runs_of(table):
    return [run_of(cell, seed=k, judge_seed=j) for k, row in enumerate(table) for j, cell in enumerate(row)]


def test_components_of_a_table_worked_by_hand():
    # Items differ by 10, seeds by 4, and nothing else: no rest.
    parts = split_variance([run_of([10, 20, 30], seed=1), run_of([14, 24, 34], seed=2)], "x")
    assert (parts.mean, parts.items, parts.seeds, parts.verdicts) == (22, 3, 2, 1)
    assert parts.item == pytest.approx(10)
    assert parts.seed == pytest.approx(8**0.5)
    assert (parts.judge, parts.rest) == (None, pytest.approx(0))
    # Rows 1, 3 and 3, 1: all of it is item by seed. Residuals are 1 and -1, so 4 / (1 · 1) with 1 degree of freedom.
    parts = split_variance([run_of([1, 3], seed=1), run_of([3, 1], seed=2)], "x")
    assert (parts.item, parts.seed, parts.rest) == (0, 0, pytest.approx(2))


def test_components_come_out_as_they_went_in():
    true = {"item": 20.0, "seed": 3.0, "rest": 12.0, "judge": 7.0}
    found = []
    for k in range(40):
        rng = np.random.default_rng(k)
        found.append(split_variance(runs_of(simulate(rng, 200, 5, 3, **true)), "x"))
    for name, sd in true.items():
        assert np.mean([getattr(one, name) ** 2 for one in found]) == pytest.approx(sd**2, rel=0.2), name


def test_verdicts_of_one_training_tell_the_judge_and_not_the_seed():
    table = simulate(np.random.default_rng(1), 400, 1, 4, judge=6.0)
    parts = split_variance(runs_of(table), "x")
    assert parts.seed is None
    assert (parts.judge, parts.item) == (pytest.approx(6, rel=0.1), pytest.approx(20, rel=0.1))
    lines = variance_lines(runs_of(table), [])
    assert "seed unknown" in lines[1] and lines[-1].startswith("one training seed; run others")


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([run_of([1, 2], seed=1), run_of([1, 2], seed=2, lr=1)], r"differ in more than seeds \(train.lr\)"),
        ([run_of([1, 2], seed=1), run_of([1, 2], seed=1)], "two of them have the same seeds"),
        ([run_of([1, 2])], "2 items of 1 runs; at least two of both"),
        ([run_of([1], seed=1), run_of([2], seed=2)], "1 items of 2 runs"),
        ([run_of([1, None], seed=1), run_of([None, 2], seed=2)], "no record has a score in every run"),
        (
            [run_of([1, 2], seed=1), run_of([1, 2], seed=1, judge_seed=9), run_of([3, 4], seed=2)],
            "as many verdicts are needed of each training; there are 2 of seed 1, 1 of seed 2",
        ),
    ],
)
def test_runs_that_cannot_be_split_are_refused(runs, message):
    with pytest.raises((ParamsError, DataError), match=message):
        split_variance(runs, "x")


def recipes_apart(trial, items, runs, seed, rest, true):
    """Tables of two recipes whose means are `true` points apart."""
    rng = np.random.default_rng([trial, items, *runs])
    by_item = rng.normal(50, 12, items)
    return [
        by_item + shift + rng.normal(0, seed, (count, 1)) + rng.normal(0, rest, (count, items))
        for count, shift in zip(runs, (0.0, true), strict=True)
    ]


@pytest.mark.parametrize(("runs", "seed"), thinned([(2, 2), (2, 4), (3, 3)], [0.6, 3.0], together=1))
def test_few_seeds_are_not_taken_for_many(runs, seed):
    trials = 300
    pairs = [recipes_apart(k, 100, runs, seed, 15.0, 0.0) for k in range(trials)]
    said = [compare_recipes(*pair, None) for pair in pairs]
    assert np.mean([p_value <= 0.05 for _, p_value in said]) <= 0.05 + 2.5 * (0.05 * 0.95 / trials) ** 0.5
    for interval, p_value in said:
        assert (interval.low > 0 or interval.high < 0) == (p_value < 0.05)


@pytest.mark.parametrize("groups", [["g"] * 50, ["g"] * 25 + ["h"] * 25])
def test_several_seeds_of_one_or_two_groups_show_nothing(groups):
    rng = np.random.default_rng(1)
    sides = [[run_of(rng.normal(mean, 1, 50), seed=k) for k in (1, 2)] for mean in (10, 60)]
    for run in (*sides[0], *sides[1]):
        run.groups.update(zip(run.groups, groups, strict=True))
    (score,) = compare(*sides).scores
    assert (score.verdict, score.smallest) == ("not distinguishable", None)
    assert score.p_value == 2.0 ** (1 - len(set(groups)))


@pytest.mark.parametrize(("trainings", "verdicts"), [(1, 2), pytest.param(1, 3, marks=pytest.mark.slow), (2, 2)])
def test_a_judge_asked_again_is_no_other_training(trainings, verdicts):
    """Two recipes that do not differ, whose trainings do: verdicts on one training say nothing of the next one."""
    wrong, trials = 0, 120
    for k in range(trials):
        rng = np.random.default_rng([k, trainings, verdicts])
        by_item = rng.normal(0, 12, 80)
        tables = [
            simulate(rng, 80, trainings, verdicts, item=0.0, seed=3.0 * (trainings > 1), rest=10.0, judge=4.0) + by_item
            for _ in "ab"
        ]
        (score,) = compare(*(runs_of(table.round(6)) for table in tables)).scores
        assert score.of_recipes == (trainings > 1)
        wrong += score.verdict != "not distinguishable"
    assert wrong / trials <= 0.05 + 2.5 * (0.05 * 0.95 / trials) ** 0.5


def test_the_verdicts_on_one_training_are_averaged_first():
    sides = [
        [run_of([v, v + 4, v + 9], seed=1, judge_seed=j) for j, v in enumerate(values)] for values in ((5, 7), (6, 12))
    ]
    (score,) = compare(*sides).scores
    assert (score.a, score.b, score.of_recipes) == (pytest.approx(6 + 13 / 3), pytest.approx(9 + 13 / 3), False)


def test_near_duplicates_count_once_between_recipes():
    rng = np.random.default_rng(4)
    tables = [rng.normal(mean, 0.2, (2, 1)) + rng.normal(0, 10, (2, 30)) for mean in (50, 53)]
    alone = compare_recipes(*tables, None)
    groups = [str(i // 4) for i in range(120)]
    twins = compare_recipes(*(np.repeat(table, 4, axis=1) for table in tables), groups)
    for one, other in ((twins[0].low, alone[0].low), (twins[0].high, alone[0].high), (twins[1], alone[1])):
        assert one == pytest.approx(other)
    repeated = [np.repeat(table, 4, axis=1) for table in tables]
    smallest = smallest_between_recipes(*tables, None)
    assert smallest_between_recipes(*repeated, groups) == pytest.approx(smallest)


def test_what_the_trained_models_do_not_show_is_in_the_recipes_interval():
    rng = np.random.default_rng(6)
    tables = [50 + rng.normal(0, 20, (2, 25)) for _ in "ab"]
    sides = [[run_of(row, seed=k) for k, row in enumerate(table)] for table in tables]
    (score,) = compare(*sides).scores
    models = paired_test(*(table.mean(axis=0).tolist() for table in tables), resamples=10_000, seed=123)
    recipes, p_value = compare_recipes(*tables, None)
    assert score.difference.low == pytest.approx(min(recipes.low, models.difference.low))
    assert score.difference.high == pytest.approx(max(recipes.high, models.difference.high))
    assert score.p_value == pytest.approx(max(p_value, models.p_value))


def test_near_duplicates_that_answer_alike_are_not_taken_for_the_seed():
    found = []
    for k in range(60):
        rng = np.random.default_rng(k)
        table = 50 + np.repeat(rng.normal(0, 10, (4, 40)), 5, axis=1)  # no seed at all: groups of five that move as one
        runs = [run_of(row, seed=seed) for seed, row in enumerate(table)]
        for run in runs:
            run.groups.update({id_: str(place // 5) for place, id_ in enumerate(run.groups)})
        found.append(split_variance(runs, "x"))
    # The spread of a run's mean is what forty groups leave, 10 / √40, and not the seed's.
    assert np.mean([one.error for one in found]) == pytest.approx(10 / 40**0.5, rel=0.1)
    assert np.mean([one.seed**2 for one in found]) < 0.6 * 10**2 / 40
    spread, _ = spread_of(runs, "")
    assert spread.item == pytest.approx((2 * 200) ** 0.5 * found[-1].error)


def test_two_runs_of_near_duplicates_plan_with_the_error_that_their_groups_leave():
    gains = np.random.default_rng(4).normal(3, 10, 30)
    runs = [run_of([50.0] * 120, seed=1), run_of(50 + np.repeat(gains, 4), seed=1, lr_peak=1.0)]
    for run in runs:
        run.groups.update({id_: str(place // 4) for place, id_ in enumerate(run.groups)})
    spread, _ = spread_of(runs, "")
    assert spread.seed is None
    assert spread.item / 120**0.5 == pytest.approx(sem(gains))  # as many records again leave the same error


def test_planned_runs_are_judged_once_however_often_these_were():
    table = simulate(np.random.default_rng(5), 2000, 3, 3, rest=8.0, judge=6.0)
    spread, _ = spread_of(runs_of(table), "")
    assert spread.item == pytest.approx((2 * (8.0**2 + 6.0**2)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("verdicts", [2, 5])
def test_planned_verdicts_on_one_training_differ_by_all_that_the_judge_does(verdicts):
    table = simulate(np.random.default_rng(5), 4000, 1, verdicts, judge=6.0)
    spread, _ = spread_of(runs_of(table), "")
    assert spread.item == pytest.approx((2 * 6.0**2) ** 0.5, rel=0.05)


def test_a_score_that_no_two_records_have_everywhere_is_left_out_and_told():
    """People scored an answer that one of the seeds gave, and the others not."""
    runs = [run_of([5, 9, 7], seed=1), run_of([6, 8, 8], seed=2)]
    for run, scores in zip(runs, ({"r0": 90.0}, {"r1": 80.0}), strict=True):
        run.table.scores["human"] = {"sft": dict.fromkeys(run.groups) | scores}
    lines = variance_lines(runs, [])
    assert any(line.startswith("x: mean") for line in lines) and any(line.startswith("human: fewer") for line in lines)
    with pytest.raises(DataError, match="human"):
        variance_lines(runs, ["human"])


def test_seeds_judged_by_another_judge_are_not_split():
    runs = [run_of([5, 9, 7], seed=1), run_of([6, 8, 8], seed=2)]
    (judge,) = RESULTS.judges
    other = replace(RESULTS, judges=(replace(judge, identity={**judge.identity, "digest": "ffff"}),))
    runs[1] = replace(runs[1], results=other)
    with pytest.raises(DataError, match="the judge x: digest is 365c0bd3 in seed-1, ffff in seed-2"):
        split_variance(runs, "x")


@pytest.mark.parametrize("true", [0.0, 3.0])
def test_recipes_are_told_apart_wrongly_at_most_5_times_of_100_whatever_their_seeds_did(true):
    wrong, covered, trials = 0, 0, 400
    for k in range(trials):
        rng = np.random.default_rng(k)
        items = rng.normal(50, 12, 60)
        tables = [items + shift + rng.normal(0, 2.5, (3, 1)) + rng.normal(0, 10, (3, 60)) for shift in (0.0, true)]
        interval, p_value = compare_recipes(*tables, None)
        covered += interval.low <= true <= interval.high
        wrong += p_value <= 0.05 and (true == 0 or interval.mean < 0)
    assert covered / trials >= 0.93
    assert wrong / trials <= 0.05 + 2.5 * (0.05 * 0.95 / trials) ** 0.5


def test_identical_recipes_differ_by_nothing():
    sides = [[run_of([5, 9, 7], seed=k, name=f"{side}{k}") for k in (1, 2)] for side in "ab"]
    (score,) = compare(*sides).scores
    assert (score.difference.mean, score.p_value, score.verdict) == (0, 1, "not distinguishable")


def test_the_records_needed_are_the_textbooks_and_the_table_turns_round():
    spread = Spread(item=35.3, seed=None)
    # Cohen (1988): n = ((z.975 + z.8) sd / d)².
    assert records_needed(9.4, spread, 1) == pytest.approx((2.8016 * 35.3 / 9.4) ** 2, abs=3)
    for difference in (1.0, 4.0, 9.4):
        needed = records_needed(difference, spread, 1)
        assert smallest_with(needed, spread, 1) <= difference < smallest_with(needed - 1, spread, 1)


def test_no_number_of_records_makes_up_for_too_few_seeds():
    spread = Spread(item=20.0, seed=0.5)
    floor = smallest_with(10**12, spread, 2)
    assert floor == pytest.approx(0.5 * smallest_with(10**12, replace(spread, seed=1.0), 2), rel=1e-3) and floor > 2.0
    assert records_needed(floor * 0.99, spread, 2) is None
    assert records_needed(floor * 1.01, spread, 2) is not None
    table = {row[0]: dict(zip(power_table(spread)[0], row, strict=True)) for row in power_table(spread)}
    assert table["2"]["2 seeds"] == "no number" and int(table["2"]["10 seeds"]) > int(table["8"]["10 seeds"])


@pytest.mark.parametrize(("seeds", "seed", "difference"), [(2, 0.6, 10.0), (3, 0.6, 4.0), (5, 1.5, 5.0)])
def test_the_records_of_the_table_find_the_difference_8_times_of_10(seeds, seed, difference):
    records = records_needed(difference, Spread(item=15 * 2**0.5, seed=seed), seeds)
    trials = 300
    pairs = [recipes_apart(k, records, (seeds, seeds), seed, 15.0, difference) for k in range(trials)]
    found = [compare_recipes(*pair, None)[1] <= 0.05 for pair in pairs]
    assert abs(np.mean(found) - 0.8) <= 2.5 * (0.8 * 0.2 / trials) ** 0.5


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([run_of([5, 9, 7]), run_of([5, 9, 7], lr=1)], "3 records in 3 groups show no spread"),
        ([run_of([5]), run_of([9], lr=1)], "1 records in 1 groups show no spread"),
        ([run_of([5, 9, 7], seed=1), run_of([6, 10, 8], seed=2)], "show no spread from record to record"),
    ],
)
def test_power_plans_with_no_spread_that_was_not_seen(runs, message):
    with pytest.raises(DataError, match=message):
        spread_of(runs, "")


def test_power_takes_its_spread_from_the_runs_it_is_given():
    table = simulate(np.random.default_rng(2), 3000, 4, seed=2.0, rest=10.0)
    runs = runs_of(table)
    spread, _ = spread_of(runs, "")
    assert spread.item == pytest.approx(10 * 2**0.5, rel=0.05)
    assert spread.seed == pytest.approx(split_variance(runs, "x").seed)
    other = run_of(runs[1].scores["x"].values(), lr=1)
    pair, lines = spread_of([runs[0], other], "")
    assert pair.seed is None
    differences = np.subtract(list(other.scores["x"].values()), list(runs[0].scores["x"].values()))
    assert pair.item == pytest.approx(differences.std(ddof=1))
    assert any(line.startswith("with these records the smallest detectable difference is") for line in lines)
    assert any(
        "not known: the table speaks of trained models" in line for line in power_lines([runs[0], other], "", pair)
    )
    with pytest.raises(ParamsError, match="one run shows no difference"):
        spread_of(runs[:1], "")
    with pytest.raises(ParamsError, match="more than two runs must be of one recipe"):
        spread_of([*runs[:2], other], "")


def seeds_alone(rng, sides, spreads, rest, items=60, difference=12.0):
    """Two recipes with one mean: each trained with so many seeds, which move it by `spreads` points."""
    by_item = rng.normal(50, difference, items)
    return [
        by_item + rng.normal(0, spread, (count, 1)) + rng.normal(0, rest, (count, items))
        for count, spread in zip(sides, spreads, strict=True)
    ]


STABILITY = [(1.5, 1.5), (3.0, 1.0), (0.5, 3.0), (5.0, 0.2)]


@pytest.mark.parametrize("trials", [pytest.param(500, id="few"), pytest.param(5000, id="many", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("spreads", "sides"), thinned(STABILITY, [(2, 2), (2, 5), (3, 3)], together=1))
def test_seeds_alone_make_a_recipe_better_or_worse_in_5_of_100_at_most(sides, spreads, trials):
    """However much less stable one recipe is than the other."""
    wrong = 0
    for trial in range(trials):
        tables = seeds_alone(np.random.default_rng([trial, *sides]), sides, spreads, rest=4.0)
        wrong += compare_recipes(*tables, None)[1] <= 0.05
    assert wrong / trials <= 0.05 + 2.5 * (0.05 * 0.95 / trials) ** 0.5


def two_recipes(rng, seeds, items, spread, gain=0.0, share=1.0):
    """Two recipes of which the second gains, on a share of the items all of `gain` points on average."""
    own, gains = rng.normal(50, 15, items), gain / share * (rng.random(items) < share)
    return [
        own + by + rng.normal(0, spread, (count, 1)) + rng.normal(0, 20, (count, items))
        for count, by in zip(seeds, (0.0, gains), strict=True)
    ]


def rate_of_finds(seeds, items, spread, share, trials):
    """How often a second comparison finds the smallest difference that a first one stated, and how often it did."""
    found = stated = 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, items, *seeds, 78])
        smallest = smallest_between_recipes(*two_recipes(rng, seeds, items, spread), None, share=share)
        if smallest is not None:
            stated += 1
            again = two_recipes(rng, seeds, items, spread, smallest, share)
            found += compare_recipes(*again, None)[1] <= 0.05
    return found / stated, stated


@pytest.mark.parametrize(("seeds", "spread", "share"), [((2, 2), 0.5, 1.0), ((2, 4), 0.0, FEW), ((3, 3), 3.0, 1.0)])
def test_the_stated_smallest_difference_of_recipes_is_found_8_times_of_10(seeds, spread, share):
    rate, stated = rate_of_finds(seeds, 110, spread, share, 100)
    assert stated > 90
    assert abs(rate - 0.8) <= 0.03 + 2.5 * (0.8 * 0.2 / stated) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, FEW])
@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 5), (2, 4)])
def test_it_is_in_every_cell(seeds, share):
    """Of few and many items, and seeds that do nothing, little and much.

    Where two seeds differ so much that often no difference up to 100 can be stated, those that are come out short.
    """
    rates, trials = [], 600
    for items, spread in product((60, 110, 460), (0.0, 0.5, 1.0, 3.0)):
        rate, stated = rate_of_finds(seeds, items, spread, share, trials)
        margin = 2.5 * (0.8 * 0.2 / stated) ** 0.5
        assert (0.77 if stated >= 0.95 * trials else 0.72) - margin <= rate <= 0.83 + margin, (items, spread, rate)
        rates.append(rate)
    assert 0.77 <= fmean(rates) <= 0.83


def test_a_recipe_with_one_run_is_never_called_better_or_worse():
    """It has no spread of its own, and the other's need not be its."""
    for sides in ((1, 3), (3, 1), (1, 1)):
        tables = seeds_alone(np.random.default_rng(1), sides, (0.5, 5.0), rest=1.0)
        runs = [[run_of(row, seed=k) for k, row in enumerate(side + 30 * place)] for place, side in enumerate(tables)]
        comparison = compare(*runs)
        assert (comparison.scores[0].found, comparison.scores[0].verdict) == ("better", "higher")
        assert not comparison.of_recipes
        assert "models differ: " in replace(comparison, identical=False).verdict  # these runs have no answers


def test_trainings_against_a_baseline_that_no_item_moves_are_students_one_sample_test():
    means = np.array([[52.0], [55.5], [53.0]])
    for sides, sign in (
        ((np.full((1, 9), 50.0), means + np.zeros(9)), 1),
        ((means + np.zeros(9), np.full((1, 9), 50.0)), -1),
    ):
        interval, p_value = compare_recipes(*sides, None)
        student = ttest_1samp(sign * (means[:, 0] - 50), 0)
        assert p_value == pytest.approx(student.pvalue, rel=1e-5)
        assert (interval.low, interval.high) == pytest.approx(tuple(student.confidence_interval(0.95)))


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.6), (3, 3.0), (5, 1.5)])
def test_seeds_alone_make_a_recipe_better_than_its_baseline_in_5_of_100_at_most(seeds, spread):
    trials, wrong, covered = 400, 0, 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, seeds, 5])
        (baseline,), recipe = seeds_alone(rng, (1, seeds), (0.0, spread), rest=8.0)
        interval, _ = compare_recipes(baseline[None], recipe + 4.0, None)
        covered += interval.low <= 4.0 <= interval.high
        wrong += compare_recipes(baseline[None], recipe, None)[1] <= 0.05
    assert wrong / trials <= 0.05 + 2.5 * (0.05 * 0.95 / trials) ** 0.5
    assert covered / trials >= 0.93


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.3), (3, 2.0)])
def test_the_stated_smallest_gain_on_a_baseline_is_found_8_times_of_10(seeds, spread):
    rate, stated = rate_of_finds((1, seeds), 110, spread, 1.0, 100)
    assert stated > 90
    assert abs(rate - 0.8) <= 0.03 + 2.5 * (0.8 * 0.2 / stated) ** 0.5


@pytest.mark.parametrize("trials", [pytest.param(400, id="few"), pytest.param(4000, id="many", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("spread", "seeds"), thinned([0.0, 0.5, 1.5, 4.0], [2, 3, 5], together=1))
def test_8_times_of_10_the_spread_between_seeds_is_below_its_limit(seeds, spread, trials):
    """Also where it comes out as 0; less than half of the items' noise, 0.4 here, is always covered."""
    below = 0
    for trial in range(trials):
        table = simulate(np.random.default_rng([trial, seeds]), 100, seeds, seed=spread, rest=4.0)
        below += most(table[:, 0]) >= spread
    assert below / trials >= 0.8 - 2.5 * (0.8 * 0.2 / trials) ** 0.5
    if spread > 0.4:
        assert below / trials <= 0.8 + 2.5 * (0.8 * 0.2 / trials) ** 0.5


def most(table):
    """The limit for a table of (seeds, items), as `instruct variance` gives it."""
    rest = table - table.mean(axis=0) - table.mean(axis=1)[:, None] + table.mean()
    error = ((rest**2).sum() / (len(table) - 1) / (table.shape[1] - 1) / table.shape[1]) ** 0.5
    return most_of_seed(table.mean(axis=1).var(ddof=1), error, len(table))


def test_variance_and_power_give_a_limit_where_no_spread_between_seeds_is_seen():
    table = simulate(np.random.default_rng(3), 100, 3, rest=6.0)
    table -= table.mean(axis=2, keepdims=True) - table.mean()  # the means are one and the same
    runs = runs_of(table)
    parts = split_variance(runs, "x")
    assert parts.seed == pytest.approx(0, abs=1e-6)
    assert parts.seed_most == pytest.approx(most(table[:, 0])) and parts.seed_most > 0.2
    assert any(f"8 times of 10 the seed's is below {parts.seed_most:.2f}" in line for line in variance_lines(runs, []))
    spread, _ = spread_of(runs, "")
    assert spread.planned == parts.seed_most
    lines = power_lines(runs, "", spread)
    assert any(f"8 times of 10 it is below {parts.seed_most:.2f}, with which the table plans" in line for line in lines)
    assert smallest_with(100, spread, 3) > smallest_with(100, replace(spread, most=0.0), 3)


@pytest.mark.parametrize(("error", "spread"), [(1.2, 0.6), (1.2, 1.7), (0.7, 0.0)])
def test_the_rate_of_seeds_alone_is_how_often_they_are_called_different(error, spread):
    rng = np.random.default_rng(2)
    differences = rng.normal(0, error, 40_000) + rng.normal(0, spread, (2, 40_000)).T @ [1, -1]
    called = (np.abs(differences) > 1.96 * error).mean()
    assert rate_of_seeds_alone(error, spread) == pytest.approx(called, abs=0.01)


def test_without_noise_of_records_any_spread_is_called_a_difference():
    assert (rate_of_seeds_alone(0.0, 1.0), rate_of_seeds_alone(0.0, 0.0)) == (1.0, 0.0)


def measured_with(run, name, sha256="a" * 64, signatures=None, **identity):
    (judge,) = run.results.judges
    judge = replace(judge, identity={**judge.identity, **identity})
    signatures = {**run.results.signatures, **(signatures or {})}
    test = replace(run.results.test, sha256=sha256)
    results = replace(run.results, test=test, judges=(judge,), signatures=signatures)
    return replace(run, name=name, results=results)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({}, ""),
        ({"sha256": "d" * 64}, "was recorded for another test set"),
        ({"digest": "ffff"}, "was recorded by another measure or judge"),
        ({"signatures": {"x": "other rules"}}, "was recorded by another measure or judge"),
    ],
)
def test_a_recorded_spread_is_quoted_for_its_own_test_set_and_judge_alone(tmp_path, now, why):
    (tmp_path / "metrics").mkdir()
    record_seeds([run_of([5, 9, 7], seed=1), run_of([6, 8, 9], seed=2)], ["x"], tmp_path)
    sides = [measured_with(run_of(scores), name, **now) for scores, name in (([5, 9, 7], "a"), ([6, 4, 9], "b"))]
    line = scope_line(compare(sides[:1], sides[1:]), read_recorded(tmp_path))
    assert ("% of such pairs" in line) == (not why) and why in line


def test_a_record_that_does_not_say_its_test_set_is_read_and_not_quoted(tmp_path):
    (tmp_path / "metrics").mkdir()
    record_seeds([run_of([5, 9, 7], seed=1), run_of([6, 8, 9], seed=2)], ["x"], tmp_path)
    found = json.loads((tmp_path / RECORD).read_text())
    del found["scores"]["x"]["measured_by"]
    (tmp_path / RECORD).write_text(json.dumps(found))
    comparison = compare([run_of([5, 9, 7], name="a")], [run_of([6, 4, 9], name="b")])
    line = scope_line(comparison, read_recorded(tmp_path))
    assert "does not say for which test set" in line and "% of such pairs" not in line


def test_power_counts_closed_questions_where_the_score_is_about_them():
    """Three of four records have a right answer."""
    runs = []
    for seed, right in ((1, [0.0, 100.0, 0.0, None]), (2, [0.0, 0.0, 100.0, None])):
        run = run_of([1, 2, 3, 4], seed=seed)
        run.table.scores["accuracy"] = {"sft": dict(zip(run.groups, right, strict=True))}
        runs.append(run)
    lines = power_lines(runs, "accuracy", Spread(item=1.0, seed=None))
    assert any(line.startswith("closed questions needed") for line in lines)
    assert "3 of these 4 test records" in lines[-1] and "1.33" in lines[-1]
    assert any(line.startswith("test records needed") for line in power_lines([], "", Spread(item=1.0, seed=None)))

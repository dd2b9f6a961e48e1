from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from results.sample import IDENTITY, PARAMS, TEST, make_run
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import ttest_rel

from instruct.comparing.charts import draw_forest
from instruct.comparing.compare import NotComparableError, baseline_of, compare
from instruct.comparing.gate import Gate, gate_fails, parse_gate
from instruct.comparing.guard import find_changes
from instruct.comparing.report import about_lines, detectable_line, summary_lines
from instruct.comparing.tables import change_table
from instruct.core.errors import DataError, ParamsError
from instruct.results.runs import read_run
from instruct.statistics import smallest_detectable

ROOT = Path(__file__).parents[2]
COUNT = count()
RNG = np.random.default_rng(7)
BEFORE = RNG.uniform(0, 90, 60).round(4).tolist()
NOISE = RNG.normal(0, 8, 60)
JUDGED = {"llama": IDENTITY}
REFERENCE = {"reference": {"judge": "reference"}}


def run(scores, *, judges=None, params=None, **fields):
    """A run whose SFT answers got these scores."""
    values = {name: dict(section) for name, section in PARAMS.items()}
    for key, value in (params or {}).items():
        section, name = key.split(".")
        values[section][name] = value
    both = {name: {"base": [10.0] * len(one), "sft": one} for name, one in scores.items()}
    fields = {"md5s": {"sft": f"{next(COUNT):032}"}, **fields}
    return make_run("workspace", both, identities=judges, params=values, **fields)


def moved(by):
    return np.clip(np.asarray(BEFORE) + NOISE + by, 0, 100).round(4).tolist()


@pytest.mark.parametrize(("by", "verdict"), [(9, "higher"), (-9, "lower"), (0.4, "not distinguishable")])
def test_the_verdict_is_of_b(by, verdict):
    after = moved(by)
    (score,) = compare([run({"similarity": BEFORE})], [run({"similarity": after})]).scores
    assert score.verdict == verdict
    assert score.difference.mean == pytest.approx(np.mean(after) - np.mean(BEFORE))
    assert (score.a, score.b) == pytest.approx((np.mean(BEFORE), np.mean(after)))
    # With sixty records the test of flips comes to about what Student's does.
    assert score.p_value == pytest.approx(ttest_rel(after, BEFORE).pvalue, abs=0.02)
    changes = np.subtract(after, BEFORE)
    assert (score.wins, score.ties, score.losses) == ((changes > 0).sum(), (changes == 0).sum(), (changes < 0).sum())


def test_what_cannot_be_told_apart_is_said_with_what_could_be():
    comparison = compare([run({"similarity": BEFORE})], [run({"similarity": moved(0.4)})])
    (score,) = comparison.scores
    assert score.in_words == f"not distinguishable (smallest detectable: {score.smallest:.1f})"
    assert comparison.verdict == "workspace is not distinguishable from workspace in similarity."
    # Twice the standard error of 2.8 at least, and not absurdly more.
    assert 2.8 <= score.smallest / (np.std(np.subtract(moved(0.4), BEFORE), ddof=1) / 60**0.5) <= 3.3


def test_the_primary_score_is_tested_alone_and_the_others_are_corrected_for_each_other():
    weak = moved(2.4)
    a = run({"accuracy": BEFORE, "chrf": BEFORE, "llama": BEFORE, "similarity": BEFORE}, judges=JUDGED)
    b = run({"accuracy": weak, "chrf": weak, "llama": moved(0), "similarity": moved(0.1)}, judges=JUDGED)
    first, *others = compare([a], [b]).scores
    assert (first.name, first.exploratory) == ("accuracy", False)
    assert 0.05 / 3 < first.p_value < 0.05 and first.corrected == first.p_value
    assert first.verdict == "higher"
    assert [(one.name, one.exploratory) for one in others] == [("similarity", True), ("llama", True), ("chrf", True)]
    chrf = others[-1]
    assert (chrf.p_value, chrf.corrected) == (first.p_value, pytest.approx(3 * first.p_value))
    assert chrf.verdict == "not distinguishable" and chrf.smallest > first.smallest
    assert [one.name for one in compare([a], [b], chosen=["chrf", "llama"]).scores] == ["chrf", "llama"]
    (alone,) = compare([a], [b], chosen=["chrf"]).scores
    assert (alone.corrected, alone.verdict, alone.exploratory) == (alone.p_value, "higher", False)
    with pytest.raises(ParamsError, match=r'there is no score "w" in every run; there are'):
        compare([a], [b], chosen=["w"])


def test_a_gain_of_few_records_takes_a_larger_difference_to_find():
    (score,) = compare([run({"x": BEFORE})], [run({"x": moved(0.4)})]).scores
    changes = np.subtract(moved(0.4), BEFORE).tolist()
    assert score.smallest_few == pytest.approx(smallest_detectable(changes, share=0.2))
    assert score.smallest_few > score.smallest
    line = f"{score.smallest:.1f} points if all records gain alike, {score.smallest_few:.1f} if only a fifth"
    assert any(
        line.replace(" if only", " points if only") in one
        for one in about_lines(compare([run({"x": BEFORE})], [run({"x": moved(0.4)})]), {})
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_against_b_is_b_against_a(seed):
    """Groups, order of records, order of scores and missing scores differ between the sides."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(8, 90))
    ids = [f"r{i}" for i in range(count)]
    sides = []
    for _ in "ab":
        order = rng.permutation(count)
        columns = {name: rng.choice([0.0, 12.5, 55.5, 60.1, 100.0, None], count) for name in ("chrf", "accuracy", "x")}
        names = list(rng.permutation(list(columns)))
        scores = {name: [columns[name][i] for i in order] for name in names}
        groups = [f"g{int(rng.integers(0, count))}" for _ in order]
        sides.append([run(scores, ids=[ids[i] for i in order], groups=groups)])
    there, back = compare(*sides), compare(*sides[::-1])
    assert there.groups == back.groups < count
    for one, other in zip(there.scores, back.scores, strict=True):
        assert (one.name, one.p_value, one.corrected, one.smallest) == (
            other.name, other.p_value, other.corrected, other.smallest,
        )  # fmt: skip
        assert (one.difference.mean, one.difference.low, one.difference.high) == (
            -other.difference.mean, -other.difference.high, -other.difference.low,
        )  # fmt: skip


def test_records_that_either_side_groups_are_near_duplicates():
    groups = [f"g{i // 2}" for i in range(60)], ["r0", *(f"h{(i + 1) // 2}" for i in range(1, 58)), "r58", "r59"]
    a, b = (run({"x": BEFORE if side else moved(3)}, groups=groups[side]) for side in (0, 1))
    # Pairs of A and pairs of B, one record apart, make one chain of the first 58 records.
    assert compare([a], [b]).groups == len(connected(groups)) == compare([b], [a]).groups


def connected(groups):
    """The components of records that a grouping joins, by SciPy."""
    count = len(groups[0])
    edges = [(i, j) for names in groups for i in range(count) for j in range(i) if names[i] == names[j]]
    graph = coo_array((np.ones(len(edges)), tuple(zip(*edges, strict=True))), shape=(count, count))
    return set(connected_components(graph, directed=False)[1].tolist())


def test_near_duplicates_count_as_one():
    before, after = [10.0] * 40, [30.0] * 40
    groups = [f"g{i // 20}" for i in range(40)]
    alone = compare([run({"x": before})], [run({"x": after})])
    grouped = compare([run({"x": before}, groups=groups)], [run({"x": after}, groups=groups)])
    assert (alone.scores[0].verdict, alone.groups) == ("higher", 40)
    assert (grouped.scores[0].verdict, grouped.groups) == ("not distinguishable", 2)
    assert grouped.scores[0].p_value == 0.5


def test_near_duplicates_make_the_smallest_detectable_difference_larger():
    after, groups = moved(0.4), [f"g{i // 3}" for i in range(60)]
    alone = compare([run({"x": BEFORE})], [run({"x": after})]).scores[0]
    paired = compare([run({"x": BEFORE}, groups=groups)], [run({"x": after}, groups=groups)]).scores[0]
    changes = np.subtract(after, BEFORE)
    assert alone.smallest == pytest.approx(smallest_detectable(changes.tolist()))
    assert paired.smallest == pytest.approx(smallest_detectable(changes.tolist(), groups=groups))
    assert (alone.groups, paired.groups) == (60, 20)


def test_scores_that_one_side_lacks_cannot_make_it_better():
    before = [50.0 + i % 7 for i in range(40)]
    after = [100.0 - i % 5 if i < 12 else None for i in range(40)]
    (score,) = compare([run({"x": before})], [run({"x": after})]).scores
    assert (score.corrected <= 0.05, score.difference.mean > 40) == (True, True)
    assert (score.turned, score.verdict) == (True, "not distinguishable")
    assert score.in_words == "not distinguishable (28 records lack a score in one run, which could turn it)"
    (back,) = compare([run({"x": after})], [run({"x": before})]).scores
    assert (back.turned, back.verdict) == (True, "not distinguishable")
    # One of forty cannot turn a gain of ten points; and what nobody was asked says nothing of either.
    few = [None, *moved(10)[1:]]
    assert compare([run({"x": BEFORE})], [run({"x": few})]).scores[0].verdict == "higher"
    nobody = [None] * 40
    asked = compare([run({"x": BEFORE[:20] + nobody})], [run({"x": moved(10)[:20] + nobody})]).scores[0]
    assert (asked.missing, asked.turned) == (40, False)


def test_open_questions_are_not_records_that_lack_a_right_answer():
    open_ones, unanswered = [None] * 20, [None, None]
    before, after = BEFORE[:38] + unanswered + open_ones, moved(10)[:40] + open_ones
    sides = [run({"accuracy": side, "similarity": BEFORE}) for side in (before, after)]
    comparison = compare([sides[0]], [sides[1]])
    (right, *_), (said, *_) = comparison.scores, change_table(comparison).rows
    assert (right.count, right.missing, comparison.records) == (38, 2, 60)
    assert said[0] == "accuracy (38 closed questions)" and "(38 of 40 have the score)" in said[-1].text
    assert "accuracy (38 closed questions)" in "\n".join(summary_lines(comparison))


def test_the_reference_judge_and_similarity_are_one_score():
    sides = [run({"reference": s, "similarity": s, "chrf": s}, judges=REFERENCE) for s in (BEFORE, moved(9))]
    assert [score.name for score in compare([sides[0]], [sides[1]]).scores] == ["similarity", "chrf"]
    (score,) = compare([sides[0]], [sides[1]], chosen=["reference"]).scores
    assert score.name == "reference"


def test_records_without_a_score_are_left_out_and_counted():
    before, after = [None, *BEFORE[1:]], [*moved(9)[:-1], None]
    (score,) = compare([run({"x": before})], [run({"x": after})]).scores
    assert (score.count, score.missing) == (58, 2)
    assert score.difference.mean == pytest.approx(np.mean(after[1:-1]) - np.mean(before[1:-1]))
    with pytest.raises(DataError, match=r"^x: no record has this score in both runs"):
        compare([run({"x": [None, 1.0]})], [run({"x": [1.0, None]})])


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([40.0], [90.0], "not distinguishable (too little to find one with: 1 records)"),
        ([5.0] * 5, [50.0, 51.0, 52.0, 53.0, 54.0], "not distinguishable (too little to find one with: 5 records)"),
        ([5.0 + i for i in range(8)], [9.0 + i * i / 9 for i in range(8)], "higher (these models differ)"),
        (BEFORE[:8], moved(0)[:8], "not distinguishable (too little to find one with: 8 records)"),
        (BEFORE, BEFORE, "not distinguishable (the same on every record)"),
        ([0.0] * 30, [0.0] * 30, "not distinguishable (the same on every record)"),
        ([20.0] * 30, [50.0] * 30, "higher (these models differ)"),
        # 3.7 of 30 may differ in what was not seen, each by 100 points: 12.3, and more than 5.
        ([20.0] * 30, [25.0] * 30, "not distinguishable (too little to find one with: 30 records)"),
    ],
    ids=[
        "one item",
        "five items",
        "a clean sweep of eight",
        "eight items",
        "all ties",
        "constant and equal",
        "constant and apart",
        "constant and near",
    ],
)
def test_where_there_is_nothing_to_measure_with_no_number_is_invented(a, b, words):
    (score,) = compare([run({"x": a})], [run({"x": b})]).scores
    assert score.in_words == words


def test_equal_scores_are_not_blamed_on_too_few_records():
    comparison = compare([run({"x": BEFORE})], [run({"x": BEFORE})])
    line = detectable_line(comparison.primary)
    assert comparison.primary.smallest is None and "same on every record" in line and "too few" not in line


CHANGES = [
    ({"test": {"sha256": "d" * 64, "records": 41}}, "the test set: 60 records (aaaaaaaaaaaa) in workspace, 41 records"),
    ({"test": {"template": "phi3"}}, "the template: alpaca (bbbbbbbbbbbb) in workspace, phi3 (bbbbbbbbbbbb)"),
    ({"test": {"template_sha256": "e" * 64}}, "alpaca (bbbbbbbbbbbb) in workspace, alpaca (eeeeeeeeeeee)"),
    ({"judges": {"llama": {**IDENTITY, "digest": "ffff"}}}, "the judge llama: digest is 365c0bd3 in workspace, ffff"),
    ({"judges": {"llama": {**IDENTITY, "model": "gemma"}}}, "the judge llama: model is llama3:8b in workspace, gemma"),
    ({"signatures": {"chrf": "v:9"}}, "the measure: chrf is nrefs:1|v:2.6.0 in workspace, v:9 in workspace"),
]


@pytest.mark.parametrize(("changed", "line"), CHANGES)
def test_the_guard_refuses_and_names_what_changed(changed, line):
    usual = {"judges": JUDGED, "test": {"records": 60}}
    a = run({"llama": BEFORE, "chrf": BEFORE}, **usual)
    test = {**TEST, "records": 60, **changed.get("test", {})}
    b = run({"llama": moved(9), "chrf": moved(9)}, **{**usual, **changed, "test": test})
    with pytest.raises(NotComparableError) as refused:
        compare([a], [b])
    assert any(line in reason for reason in refused.value.reasons) and "--anyway" in str(refused.value)
    marked = compare([a], [b], anyway=True)
    assert any(line in change for change in marked.changes)
    assert marked.verdict == "workspace and workspace are not comparable."
    assert marked.scores[0].difference.mean > 5


def test_what_evaluate_wrote_is_comparable_with_itself():
    """A guard that asks for more than the stage writes would refuse everything."""
    committed = read_run("workspace", ROOT)
    assert list(find_changes(committed, committed, list(committed.scores))) == []


def test_another_rubric_is_refused_too():
    sides = [run({"llama": BEFORE}, judges=JUDGED, rubric_sha256=digest * 64) for digest in "cf"]
    with pytest.raises(NotComparableError) as refused:
        compare(sides[:1], sides[1:])
    assert refused.value.reasons == (
        "the judge llama: rubric_sha256 is cccccccccccc in workspace, ffffffffffff in workspace",
    )


def test_the_same_answers_are_said_to_be_so():
    a, b = (run({"x": BEFORE}, md5s={"base": digest, "sft": "0" * 32}) for digest in ("1", "2"))
    same = compare([a], [b])
    assert same.identical and "same answers" in same.verdict
    other = run({"x": BEFORE}, md5s={"sft": "1" * 32})
    assert not compare([a], [other]).identical


def test_the_same_answers_are_never_better_or_worse_whatever_their_scores():
    lower, same = moved(-20), {"base": "1" * 32, "sft": "0" * 32}
    a, b = (run({"llama": scores, "chrf": BEFORE}, judges=JUDGED, md5s=same) for scores in (BEFORE, lower))
    comparison = compare([a], [b], chosen=["llama", "chrf"])
    assert comparison.primary.found == "worse"
    gates = {gate: gate_fails(parse_gate(gate), comparison) for gate in ("worse-by 2", "worse", "not-better")}
    assert gates == {"worse-by 2": False, "worse": False, "not-better": True}
    verdicts = [row[-1] for row in change_table(comparison).rows]
    assert [cell.text for cell in verdicts] == ["same answers; only the scoring differs", "same answers"]
    assert {cell.tone for cell in verdicts} == {""} and about_lines(comparison, {}) == []


def test_a_margin_is_exceeded_only_where_the_whole_interval_lies_below_it():
    losing = compare([run({"x": BEFORE})], [run({"x": moved(-9)})])
    loss = losing.primary.difference
    assert loss.mean < loss.high < -1
    within, beyond = (Gate(kind="worse-by", margin=-loss.high + step) for step in (0.01, -0.01))
    assert (gate_fails(within, losing), gate_fails(beyond, losing)) == (False, True)


def test_what_is_not_comparable_has_one_colour_and_no_line_about_a_verdict():
    def drawn(test):
        sides = run({"x": BEFORE, "chrf": BEFORE}), run({"x": moved(20), "chrf": moved(0)}, test=test)
        comparison = compare(*([side] for side in sides), anyway=True)
        axes = Figure().subplots()
        draw_forest(axes, comparison)
        return len({line.get_color() for line in axes.lines[:-1]}), axes.get_xlabel(), about_lines(comparison, {})

    assert drawn({"sha256": "d" * 64}) == (1, "points", [])
    colours, label, about = drawn({})
    assert (colours, len(about)) == (2, 3) and "distinguishable" in label


def test_a_judge_that_changed_matters_only_to_its_own_score():
    a = run({"llama": BEFORE, "chrf": BEFORE}, judges=JUDGED)
    b = run({"llama": moved(9), "chrf": moved(9)}, judges={"llama": {"judge": "other"}})
    assert compare([a], [b], chosen=["chrf"]).scores[0].verdict == "higher"
    with pytest.raises(DataError, match="not comparable"):
        compare([a], [b], chosen=["llama"])


def test_a_judge_in_the_place_of_another_is_refused_and_one_more_is_said():
    one = run({"llama": BEFORE, "chrf": BEFORE}, judges=JUDGED)
    other = run({"gpt": BEFORE, "chrf": moved(9)}, judges={"gpt": {"judge": "openai"}})
    both = run({"llama": moved(9), "gpt": BEFORE, "chrf": moved(9)}, judges=JUDGED | {"gpt": {"judge": "openai"}})
    with pytest.raises(DataError, match="the judge: llama has judged workspace, not workspace") as refusal:
        compare([one], [other])
    assert "the judge: gpt has judged" in str(refusal.value)
    with pytest.raises(DataError, match="the judge: gpt has judged"):
        compare([both], [one])
    more = compare([one], [both])
    assert [score.name for score in more.scores] == ["llama", "chrf"]
    assert more.left_out == ("gpt: not in workspace, so not compared",)
    assert compare([one], [other], chosen=["chrf"]).scores[0].verdict == "higher"


def test_the_reference_judge_is_a_measure_with_a_signature():
    sides = [run({"reference": BEFORE}, judges=REFERENCE, signatures={"chrf": f"nc:{n}"}) for n in (6, 4)]
    with pytest.raises(DataError, match="the measure: chrf is nc:6 in workspace, nc:4 in workspace"):
        compare(sides[:1], sides[1:], chosen=["reference"])


def test_people_who_scored_other_answers_do_not_stop_a_comparison():
    nobody = [None] * len(BEFORE)
    a, b = run({"x": BEFORE, "human": BEFORE}), run({"x": moved(9), "human": nobody})
    comparison = compare([a], [b])
    assert [score.name for score in comparison.scores] == ["x"]
    assert comparison.left_out == ("human: no record has this score in every run, so not compared",)
    with pytest.raises(DataError, match="human: no record has this score in both runs"):
        compare([a], [b], chosen=["human"])


def test_different_item_sets_are_refused_and_an_empty_intersection_always():
    a = run({"x": BEFORE})
    b = run({"x": BEFORE}, ids=[f"r{i}" for i in range(1, 61)])
    with pytest.raises(DataError, match="2 records"):
        compare([a], [b])
    other = {"sha256": "9" * 64}
    partly = run({"x": moved(9)}, ids=[f"r{i}" for i in range(10, 70)], test=other)
    comparison = compare([a], [partly], anyway=True)
    assert (comparison.records, comparison.unmatched) == (50, 20)
    apart = run({"x": moved(9)}, ids=[f"other{i}" for i in range(60)], test=other)
    with pytest.raises(DataError, match="no record in common"):
        compare([a], [apart], anyway=True)


def test_runs_without_a_score_in_common_are_refused():
    with pytest.raises(DataError, match="no score in common; judge both with the same judge"):
        compare([run({"x": BEFORE})], [run({"y": BEFORE})])


def test_several_seeds_speak_of_the_recipe_and_hold_the_seeds_spread():
    seeds = {k: {"train.seed": k} for k in (1, 2, 3)}
    shift = {1: -6.0, 2: 0.0, 3: 6.0}  # the seed moves a whole run
    a = [run({"x": np.clip(moved(shift[k]), 0, 100).tolist()}, params=seeds[k]) for k in seeds]
    own = np.random.default_rng(5).normal(4, 3, 60)  # what the other recipe does to each record
    after = {k: np.clip(np.asarray(moved(shift[k])) + own, 0, 100).tolist() for k in seeds}
    b = [run({"x": after[k]}, params=seeds[k] | {"train.lr": 1.0}) for k in seeds]
    one, several = compare(a[1:2], b[1:2]).scores[0], compare(a, b).scores[0]
    assert several.difference.mean == pytest.approx(one.difference.mean, abs=0.5)
    assert (one.verdict, several.verdict) == ("higher", "not distinguishable")
    assert several.difference.high - several.difference.low > 20
    with pytest.raises(ParamsError, match=r"differ in more than seeds \(train.lr\)"):
        compare([a[0], b[1]], [b[0]])
    with pytest.raises(ParamsError, match="two of them have the same seeds"):
        compare([a[0], a[0]], [b[0]])


def test_no_run_is_on_both_sides_of_a_comparison_of_recipes():
    a1, a2, b1 = (replace(run({"x": moved(k)}, params={"train.seed": k}), commit=str(k)) for k in range(3))
    for b in ([b1, a2], [b1, replace(a2, name="HEAD")]):
        with pytest.raises(ParamsError, match=f"{b[1].name}: is on both sides"):
            compare([a1, a2], b)
    assert compare([a1], [a1]).identical  # one run with itself says so


def with_baselines(scores, seed=0, answered="b", **more):
    """A run of two baselines, of which `few` is the better one, and a model that got these scores."""
    both = {"similarity": {"few": BEFORE, "base": [10.0] * len(scores), "sft": scores}}
    values = {name: dict(section) for name, section in PARAMS.items()}
    values["train"]["seed"] = seed
    md5s = {"base": "a", "few": answered, "sft": f"{next(COUNT):032}"}
    made = make_run(f"seed-{seed}", both, params=values, md5s=md5s, **more)
    return replace(made, results=replace(made.results, baselines=("few", "base"), best_baseline="few"))


def test_a_run_against_its_own_baseline_is_a_run_against_one_that_gave_those_answers():
    ours, theirs = with_baselines(moved(9)), run({"similarity": BEFORE})
    (expected,) = compare([theirs], [ours]).scores
    comparison = compare([baseline_of([ours])], [ours])
    assert comparison.scores == (expected,)
    assert (comparison.verdict, comparison.of_recipes) == (
        "These two models differ: seed-0 is higher in similarity than few.",
        False,
    )
    assert compare([baseline_of([ours], "base")], [ours]).scores[0].a == 10


def test_two_seeds_are_enough_to_call_a_recipe_better_than_its_baseline():
    runs = [with_baselines(moved(9 + seed), seed) for seed in (1, 2)]
    comparison = compare([baseline_of(runs)], runs)
    assert comparison.verdict == "seed-1 + seed-2 is better in similarity than few."
    single = compare([baseline_of(runs)], runs[:1]).scores[0].difference
    both = comparison.scores[0].difference
    assert both.mean == pytest.approx(np.mean([moved(10), moved(11)]) - np.mean(BEFORE))
    assert both.high - both.low > single.high - single.low  # two seeds tell little of how far seeds move it


def test_the_best_baseline_is_that_of_the_score_that_decides():
    ours = with_baselines(moved(9))
    ours.table.scores["rouge_l"] = {"base": {id_: 90.0 for id_ in ours.groups}, "few": {}, "sft": {}}
    assert baseline_of([ours]).name == baseline_of([ours], score="similarity").name == "few"
    assert baseline_of([ours], score="rouge_l").name == "base"


def test_a_baseline_that_runs_lack_or_that_answered_differently_is_refused():
    runs = [with_baselines(moved(9), 1), with_baselines(moved(8), 2, answered="c")]
    with pytest.raises(ParamsError, match='seed-1 has no baseline "fewer"; did you mean few'):
        baseline_of(runs, "fewer")
    with pytest.raises(ParamsError, match="sft"):
        baseline_of(runs, "sft")
    with pytest.raises(DataError, match=r"few .* seed-1 and seed-2"):
        baseline_of(runs)

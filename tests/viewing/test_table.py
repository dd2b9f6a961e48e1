import re
from dataclasses import replace

import pytest
from results.sample import make_difference, make_judge, make_run, make_scores, make_table
from scipy.stats import permutation_test
from viewing.repository import Repository

from instruct.comparing.guard import find_changes
from instruct.results.schema import MeasureResults
from instruct.viewing.collect import Entry, collect_runs
from instruct.viewing.differences import compare_with
from instruct.viewing.table import build_table, difference_cells, varying_settings


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    repository = Repository(tmp_path_factory.mktemp("table"), records=30)
    repository.write(mean=50.0)
    repository.commit()
    repository.write(mean=54.0, lr=1e-4, seed=1, epochs=2)
    repository.keep_as_experiment("close")
    repository.write(mean=90.0, lr=1e-4, seed=2)
    repository.keep_as_experiment("far")
    return {run.revision.name: run for run in collect_runs(repository.folder)}


def test_the_difference_between_runs_is_that_of_the_same_records(runs):
    one, other = runs["close"].run.scores["reference"], runs["main"].run.scores["reference"]
    after, before = ([scores[id_] for id_ in other] for scores in (one, other))
    (change,) = compare_with(runs["main"].run, [runs["close"].run], "reference")
    assert change.difference.mean == pytest.approx(sum(after) / 30 - sum(before) / 30)
    assert change.wins == sum(a > b for a, b in zip(after, before, strict=True))
    check = permutation_test(
        (after, before), lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=5000, rng=1,
    )  # fmt: skip
    # The bootstrap-t, which must reject too, is the more careful one of these records.
    assert check.pvalue - 0.03 < change.p_value < 2 * check.pvalue


def test_runs_that_cannot_be_compared_say_why_and_give_no_number(runs):
    run = runs["close"].run
    test = replace(run.results.test, sha256="0" * 64)
    other = replace(runs["close"], run=replace(run, results=replace(run.results, test=test)))
    _, rows = build_table([runs["main"], other], {}, 0)
    cell = rows[1].cells["diff:reference"]
    assert (cell.text, cell.value) == ("not comparable", None)
    # The words are those that `instruct compare` refuses with.
    assert cell.small == "; ".join(find_changes(runs["main"].run, other.run, ["reference"]))
    assert cell.small.startswith("the test set: ")


def test_the_same_answers_that_got_other_scores_have_no_number(runs):
    run = runs["main"].run
    other = replace(runs["far"], run=replace(runs["far"].run, results=run.results))
    _, rows = build_table([runs["main"], other, runs["main"]], {}, 0)
    cell = rows[1].cells["diff:reference"]
    assert (cell.value, cell.tone) == (None, "") and cell.small.startswith("same answers")


@pytest.mark.parametrize("turned", [False, True])
def test_a_gain_that_missing_scores_could_turn_has_no_colour(runs, turned):
    run = runs["far"].run
    (judge,) = run.results.judges
    gain = replace(judge.differences[0], mean=9.0, p_value=0.001, worst_case=-1.0 if turned else 1.0, best_case=10.0)
    judged = replace(judge, differences=(gain, *judge.differences[1:]))
    other = replace(runs["far"], run=replace(run, results=replace(run.results, judges=(judged,))))
    _, rows = build_table([runs["main"], other], {}, 0)
    assert rows[1].cells["gain:reference"].tone == ("" if turned else "good")


def test_every_gain_names_the_system_it_is_from(runs):
    scores = {"base": [10.0] * 9, "sft": [20.0] * 9, "dpo": [30.0] * 9}
    run = make_run("tuned", {"reference": scores, "pairs": scores})
    two = make_table({"pairs": {name: scores[name] for name in ("sft", "dpo")}})
    judges = (run.results.judges[0], make_judge("pairs", two, {"judge": "pairs"}))
    entry = Entry(revision=runs["main"].revision, run=replace(run, results=replace(run.results, judges=judges)))
    _, (row,) = build_table([entry], {}, 0)
    assert row.cells["gain:pairs"].small == "+1.0 to +19.0, against sft"
    assert row.cells["gain:reference"].small == "+11.0 to +29.0, against base"


def test_a_damaged_run_has_no_number_and_stops_no_other(runs):
    damaged = Entry(revision=replace(runs["far"].revision, name="damaged"), missing=("no metrics",))
    _, rows = build_table([runs["main"], damaged, runs["close"]], {}, 0)
    assert {cell.value for name, cell in rows[1].cells.items() if name != "when"} == {None}
    assert "damaged" in rows[1].cells["diff:reference"].small
    assert rows[2].cells["diff:reference"].value is not None


def test_only_settings_that_differ_have_a_column(runs):
    assert set(varying_settings([one.params for one in runs.values()])) == {"train.lr", "train.epochs"}
    columns, _ = build_table(list(runs.values()), {}, 0)
    assert [column.label for column in columns if column.key.startswith("set:")] == ["train.lr", "train.epochs"]


def test_the_verdict_is_clear_for_a_clear_difference_only(runs):
    _, rows = build_table([runs["main"], runs["far"], runs["main"]], {}, 0)
    assert rows[1].cells["diff:reference"].text.endswith(" higher")
    assert rows[2].cells["diff:reference"].text == "(this run)"
    _, rows = build_table([runs["far"], runs["main"]], {}, 0)
    assert rows[1].cells["diff:reference"].text.endswith(" lower")
    _, rows = build_table([runs["main"], runs["close"]], {}, 0)
    assert rows[1].cells["diff:reference"].text.endswith(" not\u00a0distinguishable")


def test_runs_with_one_name_keep_their_own_differences(runs):
    """An experiment of this name may have been run from several commits."""
    far = replace(runs["far"], revision=replace(runs["far"].revision, name="close"))
    cells = difference_cells([runs["main"], runs["close"], far], runs["main"], "reference")
    changes = compare_with(runs["main"].run, [runs["close"].run, far.run], "reference")
    assert [cell.value for cell in cells[1:]] == [one.difference.mean for one in changes]
    assert cells[1].value != cells[2].value


def test_p_values_are_corrected_for_the_number_of_runs(runs):
    (alone,) = compare_with(runs["main"].run, [runs["close"].run], "reference")
    assert 0.01 < alone.p_value < 0.25
    close = [replace(runs["close"], revision=replace(runs["close"].revision, name=f"close{i}")) for i in range(4)]
    cells = difference_cells([runs["main"], *close], runs["main"], "reference")
    said = {re.search("p\u00a0=\u00a0([^;]+)", cell.small)[1] for cell in cells[1:]}
    assert said == {f"{4 * alone.p_value:.2g}"}


def with_right_answers(entry, right):
    """The run with a score of right answers beside its judges."""
    systems = tuple(make_scores(name, scores.values()) for name, scores in right.items())
    difference = make_difference("base", "sft", right)
    measured = MeasureResults(name="accuracy", systems=systems, differences=(difference,), slices=())
    return replace(entry, run=replace(entry.run, results=replace(entry.run.results, measured=(measured,))))


@pytest.mark.parametrize("everywhere", [True, False])
def test_right_answers_come_first_if_all_runs_have_them(runs, everywhere):
    ids = list(runs["main"].run.scores["reference"])
    right = {"base": dict.fromkeys(ids, 0.0), "sft": {id_: 100.0 * (place < 24) for place, id_ in enumerate(ids)}}
    entries = [with_right_answers(runs["main"], right), runs["close"]]
    if everywhere:
        entries[1] = with_right_answers(entries[1], right)
    columns, rows = build_table(entries, {}, 0)
    judged = ["score:reference", "gain:reference", "diff:reference"]
    first = ["score:accuracy", "gain:accuracy", "diff:accuracy", "score:reference"] if everywhere else judged
    assert [column.key for column in columns if column.shown][: len(first)] == first
    assert len({column.label for column in columns}) == len(columns)
    if everywhere:
        assert [rows[1].cells[f"{kind}:accuracy"].value for kind in ("score", "gain")] == [80.0, 80.0]

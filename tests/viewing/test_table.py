from dataclasses import replace

import pytest
from scipy.stats import permutation_test
from viewing.repository import Repository

from instruct.comparing.guard import find_changes
from instruct.viewing.collect import collect_runs
from instruct.viewing.table import build_table, compare_all, compare_runs, varying_settings


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


def changed(run, **fields):
    """A run whose metrics/evaluate.json differs in some fields of `test` or of its judge."""
    of_judge = {key: fields.pop(key) for key in ("identity", "rubric_sha256") if key in fields}
    reference = {**run.evaluate["reference"], "signatures": fields.pop("signatures", {})}
    evaluate = {**run.evaluate, "test": {**run.evaluate["test"], **fields}, "reference": reference}
    judge = {**run.evaluate["judges"]["reference"], **of_judge}
    return replace(run, evaluate={**evaluate, "judges": {"reference": judge}})


def test_the_difference_between_runs_is_that_of_the_same_records(runs):
    one, other = runs["close"].scores["reference"], runs["main"].scores["reference"]
    ids = [id_ for system, id_ in other if system == "tuned"]
    after, before = ([scores["tuned", id_] for id_ in ids] for scores in (one, other))
    paired, reason = compare_runs(runs["close"], runs["main"], "reference")
    assert reason == []
    assert paired.difference.mean == pytest.approx(sum(after) / 30 - sum(before) / 30)
    assert paired.wins == sum(a > b for a, b in zip(after, before, strict=True))
    check = permutation_test(
        (after, before), lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=5000, rng=1,
    )  # fmt: skip
    assert paired.p_value == pytest.approx(check.pvalue, abs=0.03)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sha256": "0"}, "the test set: "),
        ({"template_sha256": "0"}, "the template: "),
        ({"identity": {"judge": "ollama", "model": "llama3"}}, "the judge reference: "),
        ({"rubric_sha256": "0"}, "the judge reference: rubric_sha256 is "),
        ({"signatures": {"chrf": "nc:5"}}, "the measure: chrf is "),
    ],
)
def test_runs_that_cannot_be_compared_say_why_and_give_no_number(runs, fields, reason):
    other = changed(runs["close"], **fields)
    paired, (said, *reasons) = compare_runs(other, runs["main"], "reference")
    assert (paired, said) == (None, "not comparable")
    assert all(line.startswith(reason.split(":")[0]) for line in reasons)
    assert reasons == find_changes(runs["main"], other, ["reference"])  # what `instruct compare` refuses with
    assert reasons[0].startswith(reason)
    _, rows = build_table([runs["main"], other], {}, 0)
    cell = rows[1].cells["diff:reference"]
    assert (cell.text, cell.value) == ("not comparable", None)
    assert cell.small.startswith(reason)


def test_only_settings_that_differ_have_a_column(runs):
    assert set(varying_settings(list(runs.values()))) == {"train.lr", "train.epochs"}
    columns, _ = build_table(list(runs.values()), {}, 0)
    assert [column.label for column in columns if column.key.startswith("set:")] == ["train.lr", "train.epochs"]


def test_the_verdict_is_clear_for_a_clear_difference_only(runs):
    _, rows = build_table([runs["main"], runs["far"], runs["main"]], {}, 0)
    assert rows[1].cells["diff:reference"].text.endswith(" better")
    assert rows[2].cells["diff:reference"].text == "(this run)"
    _, rows = build_table([runs["far"], runs["main"]], {}, 0)
    assert rows[1].cells["diff:reference"].text.endswith(" worse")
    _, rows = build_table([runs["main"], runs["close"]], {}, 0)
    assert rows[1].cells["diff:reference"].text.endswith(" not\u00a0distinguishable")


def test_near_duplicates_count_once(runs):
    """Thirty records of one group are one observation: nothing can be said of them."""
    alike = replace(runs["far"], records=[{**record, "group": "g"} for record in runs["far"].records])
    assert compare_runs(runs["far"], runs["main"], "reference")[0].p_value < 0.01
    assert compare_runs(alike, runs["main"], "reference")[0].p_value == 1.0


def test_p_values_are_corrected_for_the_number_of_runs(runs):
    cells = compare_all([runs["main"], *[runs["close"]] * 5], runs["main"], "reference")
    p_value = compare_runs(runs["close"], runs["main"], "reference")[0].p_value
    assert 0.01 < p_value < 0.2
    assert {cell.small.split("p\u00a0=\u00a0")[1] for cell in cells[1:]} == {f"{min(1.0, 5 * p_value):.2g}"}

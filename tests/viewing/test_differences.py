"""The page and `instruct compare` read the same repository; here each is held against the other, pair by pair."""

import csv
import json
from dataclasses import asdict
from io import StringIO
from statistics import fmean

import pytest
from viewing.repository import Repository

from instruct.comparing.compare import compare
from instruct.core.errors import InstructError
from instruct.core.files import parse_csv
from instruct.results.runs import read_run
from instruct.viewing import differences
from instruct.viewing.collect import collect_runs
from instruct.viewing.differences import comparable_groups, compare_with
from instruct.viewing.table import build_table


def edit_results(folder, path, value):
    file = folder / "metrics/evaluate.json"
    results = part = json.loads(file.read_text())
    *outer, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in outer:
        part = part[key]
    part[last] = value
    file.write_text(json.dumps(results))


def edit_scores(folder, edit):
    """Let `edit` change the rows of metrics/scores.csv, each a dict, in place."""
    file = folder / "metrics/scores.csv"
    reader = csv.DictReader(StringIO(file.read_text()))
    rows = list(reader)
    edit(rows)
    out = StringIO()
    writer = csv.DictWriter(out, reader.fieldnames, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(out.getvalue())


def results(path, value):
    return lambda folder: edit_results(folder, path, value)


def scores(edit):
    return lambda folder: edit_scores(folder, edit)


def score(value, place=3):
    return scores(lambda rows: rows[place].update({"reference_sft": value}))


def grouped(rows):
    for place, row in enumerate(rows):
        row["group"] = f"g{place // 3}"


def nothing(folder):
    pass


def drop_column(folder):
    file = folder / "metrics/scores.csv"
    file.write_text(file.read_text().replace("reference_", "closeness_"))


def few(folder):
    edit_scores(folder, lambda rows: rows.__delitem__(slice(3, None)))
    edit_results(folder, "test.records", 3)


def agreeing(edit):
    """The edit, after which the results tell what the table then holds."""

    def both(folder):
        edit(folder)
        columns, rows = parse_csv((folder / "metrics/scores.csv").read_text(), "scores.csv")
        path = folder / "metrics/evaluate.json"
        results = json.loads(path.read_text())
        means = {}
        for name in columns[3:]:
            known = [float(row[name]) for row in rows if row[name]]
            means[name] = len(known), fmean(known)
        for judge in results["judges"]:
            for one in judge["systems"]:
                one["scored"], one["mean"] = means[f"{judge['name']}_{one['system']}"]
        for system in results["systems"]:
            for name in system["measures"]:
                if (column := f"{name}_{system['name']}") in means:
                    system["measures"][name] = means[column][1]
        path.write_text(json.dumps(results))

    return both


COMPARED = {
    "other template": (nothing, results("test.template_sha256", "0" * 64)),
    "as they are": (nothing, nothing),
    "groups of A alone": (scores(grouped), nothing),
    "groups of B alone": (nothing, scores(grouped)),
    "a record not scored in A": (agreeing(score("")), nothing),
    "a record not scored in B": (nothing, agreeing(score(""))),
    "the same scores": (nothing, agreeing(lambda folder: (folder / "metrics/scores.csv").write_text(CSV_OF_A))),
    "too few records": (agreeing(few), agreeing(few)),
}
REFUSED = {
    "other test set": (nothing, results("test.sha256", "0" * 64)),
    "a score that the results do not know": (nothing, score("55.5")),
    "other judge": (nothing, results("judges.0.identity", {"judge": "ollama"})),
    "other rubric": (nothing, results("judges.0.rubric_sha256", "0" * 64)),
    "other measure": (nothing, results("signatures", {"chrf": "nc:5"})),
    "not judged": (nothing, results("judges.0.name", "llama")),
    "a record missing": (nothing, scores(lambda rows: rows.pop())),
    "a record more": (nothing, scores(lambda rows: rows.append({**rows[0], "id": "new"}))),
    "other ids": (nothing, scores(lambda rows: [row.update(id=f"x{row['id']}") for row in rows])),
    "an id twice": (nothing, scores(lambda rows: rows.append(rows[0]))),
    "an id twice in A": (scores(lambda rows: rows.append(rows[0])), nothing),
    "above 100": (nothing, score("100.5")),
    "below 0": (nothing, score("-1")),
    "nan": (nothing, score("nan")),
    "inf in A": (score("inf"), nothing),
    "a word": (nothing, score("good")),
    "nothing scored": (nothing, scores(lambda rows: [row.update({"reference_sft": ""}) for row in rows])),
    "no such column": (nothing, drop_column),
    "test is null": (nothing, results("test", None)),
    "signatures are null": (results("signatures", None), nothing),
    "no scores": (nothing, lambda folder: (folder / "metrics/scores.csv").unlink()),
    "no seed": (nothing, lambda folder: (folder / "params.yaml").write_text("train: {lr: 0.1}\n")),
    "no results": (nothing, lambda folder: (folder / "metrics/evaluate.json").unlink()),
}
JUDGED_OTHERWISE = {name: REFUSED[name] for name in ("other test set", "other judge", "other rubric", "other measure")}
CSV_OF_A = ""


@pytest.fixture
def pair(tmp_path, request):
    """main and the workspace after each was edited: as the page has them, and how `instruct compare` reads them."""
    global CSV_OF_A
    edit_a, edit_b = request.param
    repository = Repository(tmp_path, records=24)
    repository.write(mean=50.0)
    edit_a(tmp_path)
    CSV_OF_A = (tmp_path / "metrics/scores.csv").read_text()
    (tmp_path / "dvc.lock").unlink()
    repository.commit()
    repository.write(mean=53.0, lr=1e-4, seed=1)
    edit_b(tmp_path)
    workspace, main = collect_runs(tmp_path)
    _, rows = build_table([main, workspace], {}, 0)
    return main, workspace, rows[1].cells.get("diff:reference"), lambda name: read_run(name, tmp_path)


@pytest.mark.parametrize("pair", REFUSED.values(), ids=REFUSED.keys(), indirect=True)
def test_what_compare_refuses_has_no_number_on_the_page(pair):
    *_, cell, read = pair
    with pytest.raises(InstructError):
        compare([read("main")], [read("workspace")], chosen=["reference"])
    assert cell.value is None and (cell.text, bool(cell.small)) in (("not comparable", True), ("not judged", False))


@pytest.mark.parametrize("pair", JUDGED_OTHERWISE.values(), ids=JUDGED_OTHERWISE.keys(), indirect=True)
def test_no_answer_gains_on_that_of_a_run_which_was_judged_otherwise(pair):
    main, workspace, *_ = pair
    one, other, again = comparable_groups([main.run, workspace.run, main.run])
    assert one["reference"] == again["reference"] != other["reference"]


@pytest.mark.parametrize("pair", COMPARED.values(), ids=COMPARED.keys(), indirect=True)
def test_what_compare_compares_has_its_numbers_on_the_page(pair):
    main, workspace, cell, read = pair
    (theirs,) = compare([read("main")], [read("workspace")], chosen=["reference"]).scores
    (ours,) = compare_with(main.run, [workspace.run], "reference")
    assert len({groups["reference"] for groups in comparable_groups([main.run, workspace.run])}) == 1
    numbers = {**asdict(ours), "difference": None}
    assert numbers == pytest.approx({**asdict(theirs), "difference": None})
    assert asdict(ours.difference) == pytest.approx(asdict(theirs.difference))
    one = theirs.difference
    assert cell.text == f"{one.mean:+.1f} {theirs.verdict}".replace("not dis", "not\u00a0dis")
    assert cell.small.startswith(f"{one.low:+.1f} to {one.high:+.1f}, p\u00a0=\u00a0{theirs.corrected:.2g}")
    assert (theirs.smallest is not None) == ("detectable" in cell.small)
    if theirs.smallest is not None:
        assert cell.small.endswith(f"; smallest\u00a0detectable:\u00a0{theirs.smallest:.1f}")


def test_a_clear_difference_stays_clear_however_many_runs_are_compared(tmp_path, monkeypatch):
    """Holm multiplies the least p-value that flips can give, here 1/101, by the number of runs."""
    monkeypatch.setattr(differences, "RESAMPLES", 100)
    repository = Repository(tmp_path, records=30)
    repository.write(mean=50.0)
    repository.commit()
    repository.write(mean=90.0, seed=1)
    workspace, main = (one.run for one in collect_runs(tmp_path))
    changes = compare_with(main, [workspace] * 6, "reference")
    assert {change.verdict for change in changes} == {"higher"}
    assert changes[0].smallest > compare_with(main, [workspace], "reference")[0].smallest

"""Preference tuning in the pipeline: absent by default, four stages by one setting, and gone again without a trace."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML
from small_pipeline import commit_all, git, run

from instruct.results.runs import read_run
from instruct.tools.check import left_over
from instruct.tools.own_data import own_data
from instruct.tools.smoke import pairs_of, run_smoke
from instruct.tools.verify import verify

ROOT = Path(__file__).parents[1]
OWN = {"pairs@dpo", "reference@dpo", "prefer@dpo", "answer@dpo"}


def switch(folder, methods):
    path = folder / "params.yaml"
    values = YAML().load(path.read_text(encoding="utf-8"))
    values["prefer"]["methods"] = methods
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(values, file)


def test_one_setting_adds_the_stages_and_by_default_there_are_none(tmp_path, hermetic):
    (tmp_path / "models").mkdir()
    for name in ("dvc.yaml", "params.yaml", "models/backbones.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    found = []
    for methods in ([], ["dpo"]):
        switch(tmp_path, methods)
        repo = Repo.init(str(tmp_path), no_scm=True, force=True)
        found.append({stage.name for stage in repo.index.stages})
        repo.close()
    assert not any("@" in name for name in found[0])
    assert found[1] - found[0] == OWN


def test_the_file_of_pairs_is_a_persons_own_only_while_the_method_is_on():
    pipeline, params = (YAML(typ="safe").load(ROOT / name) for name in ("dvc.yaml", "params.yaml"))
    assert "data/preferences.jsonl" not in own_data(pipeline, params)
    on = {**params, "prefer": {**params["prefer"], "methods": ["dpo"]}}
    assert "data/preferences.jsonl" in own_data(pipeline, on)


def test_smoke_pairs_set_each_records_answer_against_anothers():
    records = [{"instruction": f"Say {i}.", "input": "", "output": str(i), "kind": "x"} for i in range(3)]
    made = pairs_of(records)
    assert [(one["chosen"], one["rejected"]) for one in made] == [("0", "1"), ("1", "2"), ("2", "0")]
    assert set(made[0]) == {"instruction", "input", "chosen", "rejected"}


@pytest.mark.slow
def test_the_whole_flow_runs_shows_all_systems_and_leaves_nothing_when_switched_off(project, tmp_path):
    folder = run_smoke(project, tmp_path / "smoke", prefer=True)
    results = read_run("workspace", folder).results
    assert (results.names[-2:], results.primary, results.previous) == (("sft", "dpo"), "dpo", "sft")
    step = results.headline[0].step_of("dpo")
    scores = list(csv.DictReader((folder / "metrics/scores.csv").read_text(encoding="utf-8").splitlines()))
    name = results.headline[0].name
    both = [(float(row[f"{name}_sft"]), float(row[f"{name}_dpo"])) for row in scores if row[f"{name}_sft"]]
    assert step.mean == pytest.approx(sum(b - a for a, b in both) / len(both), abs=1e-4)
    summary = json.loads((folder / "metrics/summary.json").read_text())
    assert len(summary) <= 12 and {"gain", f"difference_{results.against}"} <= set(summary)
    page = (folder / "metrics/report/index.html").read_text(encoding="utf-8")
    assert "DPO model" in page and "Mean length of an answer" in page
    pairs = json.loads((folder / "metrics/preferred/pairs.json").read_text())
    assert pairs["train"] + pairs["val"] == pairs["pairs"] > 10 and "words" in pairs["baselines"]
    for part in ("val", "test"):
        asked = {one["instruction"] for one in json.loads((folder / f"data/split/{part}.json").read_text())}
        for name in ("train", "val"):
            pairs = json.loads((folder / f"data/pairs/{name}.json").read_text())
            assert not asked & {one["instruction"] for one in pairs}

    (folder / ".dvc/config.local").unlink()
    git(folder, "init", "--quiet")
    commit_all(folder)
    assert run("dvc", "status", cwd=folder).stdout.strip().startswith("Data and pipelines are up to date")
    assert verify(folder, lock_only=True) == []  # in a clone, where data/preferred holds its README alone
    switch(folder, [])
    found = left_over([], folder / "data/preferred", folder / "metrics/preferred")
    assert len(found) == 5
    assert run("dvc", "checkout", cwd=folder).returncode == 0
    for line in left_over([], folder / "data/preferred", folder / "metrics/preferred"):
        Path(line.split(": ")[0]).unlink()
    done = run("dvc", "repro", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(name in done.stdout for name in OWN) and "DPO" not in done.stdout
    plain = read_run("workspace", folder)
    assert (plain.results.primary, plain.stale) == ("sft", ())
    assert "over_previous" not in (folder / "metrics/evaluate.json").read_text()

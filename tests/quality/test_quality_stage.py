import json
import os
import shutil
from pathlib import Path

import pytest
import warm
from ruamel.yaml import YAML

from instruct.core.records import Example, write_records

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """Three parts of good records, the project's settings with the backbone that needs no file."""
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=lambda _, names: set(names) - {"backbones.yaml"})
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["model"]["backbone"] = "gpt2-tiny-random"
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    for part, count in {"train": 6, "val": 2, "test": 2}.items():
        write_part(tmp_path, part, [f"An owl and {i} more." for i in range(count)])
    return tmp_path


def write_part(folder, part, outputs):
    records = [
        Example(id=f"{part}{i}", instruction=f"Name {part} bird {i}.", input="", output=output, kind="bird")
        for i, output in enumerate(outputs)
    ]
    write_records(folder / ("split" if part == "test" else "augmented") / f"{part}.json", records)


def run_stage(folder, **environment):
    paths = "augmented", "split", "metrics/data.json", "passed.txt"
    env = {**os.environ, "INSTRUCT_CACHE": str(folder / "cache"), **environment}
    return warm.python(ROOT / "src/quality.py", *paths, cwd=folder, env=env)


def test_good_data_pass_and_the_report_covers_every_part(folder):
    done = run_stage(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "10 records: every gate passed, 0 of them with a warning"
    report = json.loads((folder / "metrics/data.json").read_text(encoding="utf-8"))
    assert (report["records"], report["parts"]) == (10, {"train": 6, "val": 2, "test": 2})
    assert {part: one["counted"] for part, one in report["tokens"]["parts"].items()} == report["parts"]
    assert (report["tokens"]["tokenizer"], report["tokens"]["template"]) == ("gpt2-tiny-random", "alpaca")


def test_a_gate_that_fails_stops_the_stage_after_the_report_is_written(folder):
    write_part(folder, "val", ["...", "An owl."])
    done = run_stage(folder)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "quality.py: empty_answer: 1 of 10 records (10 %), more than quality.gates.empty_answer.max_share 0 allows: "
        'val[0] val0: "output" says nothing; correct or drop them, or change the gate',
        "the data did not pass; metrics/data.json has the whole report",
    ]
    assert not (folder / "passed.txt").exists()
    assert json.loads((folder / "metrics/data.json").read_text())["gates"] == {"failed": 1, "warned": 0}


def test_a_warning_is_said_and_the_pass_is_the_same_bytes_whatever_the_numbers(folder):
    run_stage(folder)
    before = (folder / "passed.txt").read_bytes()
    write_part(folder, "test", ["ask ann.lee@mail.org", "An owl."])
    done = run_stage(folder)
    assert (done.returncode, done.stderr) == (0, "")
    _, warning, last = done.stdout.splitlines()
    assert warning.startswith("warning: pii_email: 1 of 10 records (10 %)")
    assert "ann.lee" not in warning
    assert last.endswith("1 of them with a warning")
    assert (folder / "passed.txt").read_bytes() == before


def test_records_beyond_the_backbones_context_are_named_before_training_meets_them(folder):
    write_part(folder, "train", ["An owl.", "owl " * 3000, "An owl sleeps."])
    done = run_stage(folder)
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if "context" in line]
    assert "train1" in line and "train0" not in line and "train.over_long" in line
    report = json.loads((folder / "metrics/data.json").read_text())["tokens"]
    assert f"context of {report['context']}" in line


def test_two_runs_write_the_same_bytes(folder):
    reports = []
    for seed in ({}, {"PYTHONHASHSEED": "1"}):
        run_stage(folder, **seed)
        reports.append((folder / "metrics/data.json").read_bytes())
    assert reports[0] == reports[1]

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from instruct.core.records import read_examples
from instruct.formats.columns import USUAL

ROOT = Path(__file__).parents[2]
PARAMS = """
split:
  data: data.json
  strategy: {strategy}
  train: 0.6
  val: 0.2
  test: 0.2
  stratify: true
  seed: 5
  invalid: {invalid}
  duplicates: {{on: prompt, similarity: 90, mode: group, method: auto}}
  columns: {columns}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(count):
    return [{"instruction": f"Say {i}.", "input": "", "output": str(i), "kind": f"kind {i % 3}"} for i in range(count)]


def split(folder, data, *, invalid="raise", strategy="shuffled", params=PARAMS):
    (folder / "params.yaml").write_text(
        params.format(invalid=invalid, strategy=strategy, columns=json.dumps(asdict(USUAL)))
    )
    (folder / "data.json").write_text(json.dumps(data))
    return subprocess.run(
        [sys.executable, str(ROOT / "src/split.py"), "split", "metrics/split.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=60,
    )


def test_drop_leaves_the_bad_records_out_counts_them_and_shows_them(folder):
    data = rows(10)
    data[3] = {**data[3], "output": ""}
    data[7] = {"instruction": "no output", "input": None}
    data.append("text")
    done = split(folder, data, invalid="drop")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((folder / "metrics/split.json").read_text()) == {
        "read": 11,
        "refused": 3,
        "dropped": 0,
        "kept": 8,
        "kinds": 3,
        "train": 4,
        "val": 3,
        "test": 1,
        "fractions": {"train": 0.5, "val": 0.375, "test": 0.125},
        "groups": 8,
        "duplicates": {"on": "prompt", "similarity": 90.0, "groups": 0, "records": 0, "largest": 1},
        "across": {"groups": 0, "val": {"equal": 0, "near": 0}, "test": {"equal": 0, "near": 0}},
        "moved": 0,
        "orphans": 0,
    }
    shown = [line for line in done.stdout.splitlines() if line.startswith("dropped")]
    assert shown == [
        'dropped data.json[3]: "output" is empty; fill it or drop the record',
        'dropped data.json[7]: "input" must be text, is null',
        'dropped data.json[7]: "output" is missing; add it',
        "dropped data.json[10]: must be an object with instruction, input, output, is text",
    ]
    kept = [e.output for part in ("train", "val", "test") for e in read_examples(folder / f"split/{part}.json")]
    assert sorted(kept) == sorted(str(i) for i in range(10) if i not in (3, 7))


def test_raise_lists_every_bad_record_and_writes_nothing(folder):
    data = rows(10)
    data[2] = {**data[2], "input": None}
    data[9] = {**data[9], "instruction": 1}
    done = split(folder, data)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1  # what the stage does
    assert done.stderr.splitlines() == [
        'split.py: data.json[2]: "input" must be text, is null',
        'data.json[9]: "instruction" must be text, is the number 1',
        "2 bad records; mend them, or set split.invalid: drop",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["data.json", "params.yaml"]


def test_results_of_an_earlier_run_survive_a_failing_one(folder):
    assert split(folder, rows(10)).returncode == 0
    before = {path: path.read_bytes() for path in (folder / "split").iterdir()}
    assert split(folder, [*rows(10), {}]).returncode == 1
    assert {path: path.read_bytes() for path in (folder / "split").iterdir()} == before


def test_split_writes_the_same_bytes_every_time(folder):
    outputs = []
    for _ in range(2):
        assert split(folder, rows(20)).returncode == 0
        outputs.append({path.name: path.read_bytes() for path in sorted((folder / "split").iterdir())})
        shutil.rmtree(folder / "split")
    assert outputs[0] == outputs[1]
    assert list(outputs[0]) == ["test.json", "train.json", "val.json"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 5", "sead: 5", "params.yaml: split.sead is not a setting; did you mean seed?"),
        ("train: 0.6", "train: most", 'params.yaml: split.train must be a number, is the text "most"'),
        ("train: 0.6", "train: 0.7", "params.yaml: split.train + val + test must be 1, is 1.1"),
        ("split:", "splitt:", 'params.yaml: the section "split" is missing; did you mean splitt?'),
        ("split:", "split: {{", "params.yaml:4:11: not YAML"),
    ],
)
def test_wrong_parameter_is_one_line_and_status_1(folder, old, new, message):
    done = split(folder, rows(10), params=PARAMS.replace(old, new))
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1  # what the stage does
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"split.py: {message}")

import json
import runpy
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import warm

from instruct.core.errors import InstructError
from instruct.core.records import read_examples
from instruct.formats.columns import USUAL

ROOT = Path(__file__).parents[2]
MAIN = runpy.run_path(str(ROOT / "src/split.py"), run_name="stage")["main"]
PARAMS = """
split:
  data: data.json
  checks: checks.json
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


def write(folder, data, *, invalid="raise", strategy="shuffled", params=PARAMS, checks=None):
    (folder / "checks.json").write_text(json.dumps(checks or {}))
    (folder / "params.yaml").write_text(
        params.format(invalid=invalid, strategy=strategy, columns=json.dumps(asdict(USUAL)))
    )
    (folder / "data.json").write_text(json.dumps(data))


def split(folder, data, **settings):
    write(folder, data, **settings)
    return warm.python(ROOT / "src/split.py", "split", "metrics/split.json", cwd=folder)


def test_drop_leaves_the_bad_records_out_counts_them_and_shows_them(folder):
    data = rows(10)
    data[3] = {**data[3], "output": ""}
    data[7] = {"instruction": "no output", "input": None}
    data.append("text")
    done = split(folder, data, invalid="drop")
    assert (done.returncode, done.stderr) == (0, "")
    none = {"equal": 0, "near": 0, "turn": 0}
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
        "across": {"groups": 0, "val": none, "test": none},
        "moved": 0,
        "orphans": 0,
        "left_out": {"turns": 0, "system": 0, "columns": 0},
        "checks": {"unknown": 0, "train": 0, "val": 0, "test": 0},
    }
    shown = [line.split(": ")[0] for line in done.stdout.splitlines() if line.startswith("dropped")]
    assert shown == [f"dropped data.json[{i}]" for i in (3, 7, 10)]
    kept = [e.output for part in ("train", "val", "test") for e in read_examples(folder / f"split/{part}.json")]
    assert sorted(kept) == sorted(str(i) for i in range(10) if i not in (3, 7))


def test_raise_lists_every_bad_record_and_writes_nothing(folder):
    data = rows(10)
    data[2] = {**data[2], "input": 7}
    data[9] = {**data[9], "instruction": 1}
    done = split(folder, data)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1  # what the stage does
    *lines, last = done.stderr.removeprefix("split.py: ").splitlines()
    assert [line.split(" ")[:2] for line in lines] == [["data.json[2]:", '"input"'], ["data.json[9]:", '"instruction"']]
    assert last.startswith("2 bad records")
    assert sorted(path.name for path in folder.iterdir()) == ["checks.json", "data.json", "params.yaml"]


def test_thousands_of_bad_records_of_one_kind_are_a_few_lines_and_a_count(folder):
    data = [{**row, "source": i} for i, row in enumerate(rows(2000))]
    done = split(folder, data)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) < 10
    assert "2000 bad records" in done.stderr


def test_later_turns_that_are_left_out_are_counted_and_said(folder):
    def chat(i, turns):
        said = [{"role": ("user", "assistant")[j % 2], "content": f"{i} {j} {i}"} for j in range(2 * turns)]
        return {"messages": said}

    columns = json.dumps({**asdict(USUAL), "turns": "first"}).replace("{", "{{").replace("}", "}}")
    done = split(folder, [chat(i, 1 + i % 3) for i in range(12)], params=PARAMS.replace("{columns}", columns))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((folder / "metrics/split.json").read_text())["left_out"]["turns"] == 8
    assert [line for line in done.stdout.splitlines() if "8 records" in line and "turns" in line]


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
    assert list(outputs[0]) == ["checks.json", "test.json", "train-checks.json", "train.json", "val.json"]


def test_checks_go_with_the_tested_records_alone_and_change_no_other_byte(folder):
    """What training and generation read must not depend on a check, whether it is beside the records or in them."""
    accept = {"type": "accept", "accept": ["x"]}
    assert split(folder, rows(20)).returncode == 0
    before = {name: (folder / f"split/{name}.json").read_bytes() for name in ("train", "val", "test")}
    ids = {name: [one.id for one in read_examples(folder / f"split/{name}.json")] for name in before}
    beside = {**{id_: accept for some in ids.values() for id_ in some}, "gone": accept}
    done = split(folder, rows(20), checks=beside)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "split/checks.json").read_text()) == {
        id_: accept for part in ("val", "test") for id_ in ids[part]
    }
    assert json.loads((folder / "split/train-checks.json").read_text()) == dict.fromkeys(ids["train"], accept)
    counts = json.loads((folder / "metrics/split.json").read_text())["checks"]
    assert counts == {"unknown": 1, **{part: len(some) for part, some in ids.items()}}
    assert [line for line in done.stdout.splitlines() if "checks.json: 1 " in line]
    own = {"type": "open"}
    assert split(folder, [{**row, "check": own} for row in rows(20)], checks=beside).returncode == 0
    assert set(map(str, json.loads((folder / "split/checks.json").read_text()).values())) == {str(own)}
    assert {name: (folder / f"split/{name}.json").read_bytes() for name in before} == before


@pytest.mark.parametrize("place", ["record", "file"])
def test_a_check_that_is_not_valid_is_named_by_file_record_and_field(folder, place):
    wrong = {"type": "number", "value": "x", "tolerance": -1}
    data = rows(10)
    if place == "record":
        data[4]["check"] = wrong
    done = split(folder, data, checks={"some id": wrong} if place == "file" else None)
    where = ("data.json[4]", "check.tolerance") if place == "record" else ("checks.json: some id", "check.tolerance")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert all(part in done.stderr.splitlines()[0] for part in where)
    assert not (folder / "split").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 5", "sead: 5", "params.yaml: split.sead "),
        ("train: 0.6", "train: most", "params.yaml: split.train "),
        ("train: 0.6", "train: 0.7", "params.yaml: split.train + val + test "),
        ("split:", "splitt:", 'params.yaml: the section "split" '),
        ("split:", "split: {{", "params.yaml:"),
    ],
)
def test_wrong_parameter_is_one_line(folder, old, new, message):
    """That the stage prints it and ends with status 1 is tested for every stage in test_pipeline.py."""
    write(folder, rows(10), params=PARAMS.replace(old, new))
    with pytest.raises(InstructError) as refused:
        MAIN(Path("split"), Path("metrics/split.json"))
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
    assert not (folder / "split").exists()

"""What Git alone tells of two runs' metrics is what `dvc metrics diff` tells, and where it cannot, DVC is asked."""

import json

import pytest
import yaml
from comparing.small_runs import commit, dvc, git, make_repository, write_run

import instruct.comparing.metrics as metrics_module
from instruct.comparing.metrics import MetricsDiff
from instruct.results.runs import read_run

OLD = {"score": 40, "gone": 1.5, "same": 2, "by": {"kind": {"riddle": 0.125, "sum": "few"}}, "list": [1], "no": None}
NEW = {"score": 52.3, "come": True, "same": 2, "by": {"kind": {"riddle": 7, "sum": "many"}}, "list": [2], "no": None}
PREFER = {"foreach": "${prefer.methods}", "do": {"cmd": "true", "metrics": [{"metrics/prefer.json": {"cache": False}}]}}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = make_repository(tmp_path_factory.mktemp("metrics") / "repository", with_dvc=True)
    stages = {"train": {"cmd": "true", "metrics": [{"metrics/more.json": {"cache": False}}]}}
    stages |= {"evaluate": {"cmd": "true", "metrics": [{"metrics/summary.json": {"cache": False}}]}, "pairs": PREFER}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    write_run(root, {"x": [1.0, 2.0]})
    settings = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(settings | {"prefer": {"methods": []}}))
    (root / "metrics/prefer.json").write_text('{"left by an older run": 1}')
    (root / "metrics/more.json").write_text("{}")
    (root / "metrics/summary.json").write_text(json.dumps(OLD))
    commit(root)
    git(root, "tag", "first")
    (root / "metrics/summary.json").write_text(json.dumps(NEW))
    (root / "metrics/prefer.json").write_text('{"left by an older run": 2}')
    return root


def found(root):
    return MetricsDiff(*(read_run(name, root) for name in ("first", "workspace")), root).read()


def test_the_rows_are_those_of_dvc_without_asking_it(repository, monkeypatch):
    theirs = json.loads(dvc(repository, "metrics", "diff", "--json", "first"))
    shown = metrics_module._told(theirs, "")
    monkeypatch.setattr(metrics_module, "_start_dvc", None)
    assert found(repository) == shown
    assert {row["key"] for row in shown[0]} >= {"score", "gone", "come", "by.kind.riddle", "by.kind.sum"}


def test_a_file_that_a_run_lacks_is_named(repository, monkeypatch):
    monkeypatch.setattr(metrics_module, "_start_dvc", None)
    path = repository / "metrics/summary.json"
    path.rename(repository / "away")
    rows, said = found(repository)
    (repository / "away").rename(path)
    assert said == "workspace lacks metrics/summary.json"
    assert {row["new"] for row in rows} == {""} and {"40", "1.5"} <= {row["old"] for row in rows}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("metrics/summary.json", "{"),
        ("metrics/summary.json", "[1]"),
        ("dvc.yaml", "stages: {a: {cmd: x, metrics: [metrics/kept-by-dvc.json]}}"),
        ("dvc.yaml", "stages: {a: {cmd: x, metrics: [{metrics/m.yaml: {cache: false}}]}}"),
        ("dvc.yaml", "stages: {a: {matrix: {x: [1]}, cmd: x, metrics: [{'${item.x}.json': {cache: false}}]}}"),
        ("dvc.yaml", "metrics: [metrics/summary.json]"),
        ("dvc.yaml", "stages: ["),
    ],
)
def test_what_git_alone_does_not_tell_is_asked_of_dvc(repository, monkeypatch, path, text):
    before = (repository / path).read_text()
    (repository / path).write_text(text)
    asked = []
    monkeypatch.setattr(metrics_module, "_start_dvc", lambda *sides: asked.append(sides))
    try:
        MetricsDiff(*(read_run(name, repository) for name in ("first", "workspace")), repository)
    finally:
        (repository / path).write_text(before)
    assert len(asked) == 1


def test_another_pipeline_in_a_folder_is_asked_of_dvc(repository, monkeypatch, tmp_path):
    git(tmp_path, "clone", "-q", str(repository), "clone")
    (tmp_path / "clone/more").mkdir()
    (tmp_path / "clone/more/dvc.yaml").write_text("metrics: [m.json]")
    commit(tmp_path / "clone")
    asked = []
    monkeypatch.setattr(metrics_module, "_start_dvc", lambda *sides: asked.append(sides))
    MetricsDiff(*(read_run(name, tmp_path / "clone") for name in ("HEAD", "workspace")), tmp_path / "clone")
    assert len(asked) == 1

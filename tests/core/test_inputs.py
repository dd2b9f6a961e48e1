"""A stage during which a declared input changes fails, so that DVC does not record the new state as the input."""

import os
import sys
from pathlib import Path

import pytest
from small_pipeline import run

from instruct.core import inputs
from instruct.core.errors import InstructError
from instruct.core.inputs import SMALL, check_inputs, watch_inputs

SRC = Path(__file__).parents[2] / "src"
PIPELINE = """
stages:
  train:
    cmd: python train.py data/in data/out
    deps: ["${train.data}", code, big.bin]
    params: [train, prompt.name, {table.yaml: ["${model}"]}]
    outs: [data/out]
  other:
    cmd: python train.py data/in data/other
    params: [{whole.yaml: }, {some.toml: [b]}]
    outs: [data/other]
  tune:
    foreach: [dpo]
    do: {cmd: x, deps: [code], params: [tune]}
"""
PARAMS = "model: small-1b\ntrain: {data: data/in, lr: 1, deep: {r: 2}}\nprompt: {name: a, other: b}\ntune: {beta: 1}\n"
STAGE = """
import sys
sys.path.insert(0, {src!r})
from pathlib import Path
from instruct.core.stage import run_stage

def main(data: Path, out: Path) -> None:
    out.write_text("made")
    {edit}

run_stage(main, writes=("out",))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    (tmp_path / "data").mkdir()
    (tmp_path / "code/deep/__pycache__").mkdir(parents=True)
    (tmp_path / "code/notes").mkdir()
    texts = {
        "dvc.yaml": PIPELINE,
        "params.yaml": PARAMS,
        ".dvcignore": "# no\n__pycache__/\n*.swp\n\\#*#\ncode/notes/*\n!code/notes/kept.txt\n",
        "data/in": "in",
    }
    texts |= {"code/notes/draft.txt": "d", "code/notes/kept.txt": "k", "whole.yaml": "a: 1\n", "some.toml": "b = 1\n"}
    texts |= {"code/deep/a.py": "a", "table.yaml": "small-1b: {size: 1}\nother: {size: 1}\n", "other.txt": "o"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "big.bin").write_bytes(bytes(SMALL + 1))
    monkeypatch.setattr(inputs, "_watched", None)
    monkeypatch.setattr(inputs, "AGAIN_S", 0.0)
    return tmp_path


def replaced(name, old, new):
    def edit(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (replaced("params.yaml", "lr: 1", "lr: 2"), "params.yaml: train.lr"),
        (replaced("params.yaml", "r: 2", "r: 3"), "params.yaml: train.deep.r"),
        (replaced("params.yaml", "r: 2", "s: 2"), "params.yaml: train.deep.s"),
        (replaced("params.yaml", "name: a", "name: c"), "params.yaml: prompt.name"),
        (replaced("table.yaml", "small-1b: {size: 1", "small-1b: {size: 2"), "table.yaml: small-1b.size"),
        (replaced("data/in", "in", "on"), "data/in"),
        (replaced("code/deep/a.py", "a", "b"), "code/deep/a.py"),
        (lambda folder: (folder / "code/new.py").write_text("new"), "code/new.py"),
        (lambda folder: (folder / "code/deep/a.py").unlink(), "code/deep/a.py"),
        (replaced("code/notes/kept.txt", "k", "l"), "code/notes/kept.txt"),
        (lambda folder: (folder / "big.bin").write_bytes(bytes(SMALL + 2)), "big.bin"),
    ],
)
def test_each_change_of_a_declared_input_is_named(project, edit, named):
    watch_inputs()
    edit(project)
    with pytest.raises(InstructError) as raised:
        check_inputs()
    assert named in str(raised.value).split(": changed")[0].split(", ")


@pytest.mark.parametrize(
    "edit",
    [
        replaced("params.yaml", "other: b", "other: c"),
        replaced("params.yaml", "beta: 1", "beta: 2"),
        replaced("params.yaml", "train: {data: data/in, lr: 1,", "train: {lr: 1, data: data/in,"),
        replaced("table.yaml", "other: {size: 1", "other: {size: 2"),
        replaced("other.txt", "o", "p"),
        lambda folder: (folder / "code/deep/__pycache__/a.pyc").write_text("compiled"),
        lambda folder: (folder / "code/.a.py.swp").write_text("of an editor"),
        lambda folder: (folder / "code/#a.py#").write_text("of another one"),
        lambda folder: (folder / "code/.#a.py").symlink_to("nobody@nowhere.1"),
        replaced("code/notes/draft.txt", "d", "e"),
        replaced("dvc.yaml", "code, big.bin", "code, other.txt, big.bin"),
        replaced("dvc.yaml", "  train:", "  renamed:"),
        replaced("dvc.yaml", "stages:", "stages: ["),
        lambda folder: os.utime(folder / "code/deep/a.py", (1, 1)),
    ],
)
def test_what_the_stage_does_not_declare_may_change(project, edit):
    watch_inputs()
    edit(project)
    check_inputs()


def test_what_is_put_back_has_not_changed(project):
    watch_inputs()
    replaced("params.yaml", "lr: 1", "lr: 2")(project)
    replaced("params.yaml", "lr: 2", "lr: 1")(project)
    check_inputs()


@pytest.mark.parametrize(
    ("name", "old", "named"), [("whole.yaml", "1", "whole.yaml: a"), ("some.toml", "1", "some.toml")]
)
def test_a_file_of_settings_may_be_declared_as_a_whole_or_in_another_language(project, monkeypatch, name, old, named):
    monkeypatch.setenv("DVC_STAGE", "other")
    watch_inputs()
    replaced("params.yaml", "lr: 1", "lr: 2")(project)
    check_inputs()
    replaced(name, old, "2")(project)
    with pytest.raises(InstructError) as raised:
        check_inputs()
    assert str(raised.value).startswith(f"{named}: changed")


def test_a_settings_file_that_is_half_written_at_the_end_has_changed(project):
    watch_inputs()
    replaced("params.yaml", "deep: {r: 2}}", "deep: {r")(project)
    with pytest.raises(InstructError) as raised:
        check_inputs()
    assert str(raised.value).startswith("params.yaml")


def test_a_second_look_forgives_what_an_editor_does_while_it_saves(project, monkeypatch):
    watch_inputs()
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").unlink()
    monkeypatch.setattr(inputs.time, "sleep", lambda seconds: (project / "params.yaml").write_text(text))
    check_inputs()


def test_a_stage_that_foreach_makes_has_the_inputs_of_its_do(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "tune@dpo")
    watch_inputs()
    replaced("params.yaml", "lr: 1", "lr: 2")(project)
    check_inputs()
    replaced("params.yaml", "beta: 1", "beta: 2")(project)
    with pytest.raises(InstructError):
        check_inputs()


def test_without_dvc_nothing_is_watched(project, monkeypatch):
    monkeypatch.delenv("DVC_STAGE")
    watch_inputs()
    replaced("params.yaml", "lr: 1", "lr: 2")(project)
    check_inputs()


def test_a_stage_whose_settings_change_is_not_recorded(project, monkeypatch):
    monkeypatch.delenv("DVC_STAGE")
    assert run("dvc", "init", "--no-scm", "--quiet", cwd=project).returncode == 0
    harmless = """Path("other.txt").write_text("new")"""
    harmful = """Path("params.yaml").write_text(Path("params.yaml").read_text().replace("lr: 1", "lr: 2"))"""
    (project / "train.py").write_text(STAGE.format(src=str(SRC), edit=harmful))
    done = run("dvc", "repro", "train", cwd=project)
    assert done.returncode and "params.yaml: train.lr: changed" in done.stderr
    assert not (project / "dvc.lock").exists()
    (project / "train.py").write_text(STAGE.format(src=str(SRC), edit=harmless))
    done = run("dvc", "repro", "train", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "lr: 2" in (project / "dvc.lock").read_text()


def test_code_that_changes_after_the_first_import_counts(project):
    """The stage runs what was there when it was imported, which takes seconds with torch."""
    late = """
import sys
sys.path.insert(0, {src!r})
import instruct.core.beginning
from pathlib import Path
Path("code/deep/a.py").write_text("edited while other imports run")
from instruct.core.stage import run_stage

def main(data: Path, out: Path) -> None:
    pass

run_stage(main, writes=("out",))
"""
    (project / "train.py").write_text(late.format(src=str(SRC)))
    done = run(sys.executable, "train.py", "data/in", "data/out", cwd=project)
    assert done.returncode == 1 and "code/deep/a.py: changed" in done.stderr

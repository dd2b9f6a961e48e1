"""Data of a person's own that a copy of the commit would lack is named, with the command that helps."""

import shlex
import subprocess

import pytest
from small_pipeline import commit_all, git

from instruct.core.errors import InstructError
from instruct.tools.own_data import own_data, untracked
from instruct.tools.recipes import Recipe, run_recipes
from instruct.tools.verify import verify

PIPELINE = {
    "stages": {
        "split": {"cmd": "x", "deps": ["${split.data}", "src/split.py"], "outs": ["data/split"]},
        "train": {"cmd": "y", "deps": ["data/split/train.json"], "metrics": [{"metrics/train.json": {"cache": False}}]},
        "plot": {"cmd": "z", "deps": ["metrics/train.json", "${none.at.all}", "data/human-scores.csv"]},
    }
}
NAMES = ["data/mine.jsonl", "données.jsonl", "data/my data (1).json", "bob's.json", "q&a.json", "cost$100.json"]


@pytest.fixture
def repository(tmp_path, hermetic):
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    git(tmp_path, "init", "--quiet", str(folder))
    return folder


def test_own_data_is_what_the_pipeline_reads_and_no_stage_makes():
    params = {"split": {"data": "data/mine.jsonl"}}
    assert own_data(PIPELINE, params) == ["data/mine.jsonl", "src/split.py", "data/human-scores.csv"]


@pytest.mark.parametrize("broken", [None, [], {"stages": 3}, {"stages": {"a": 3}}, {"stages": {"a": {"deps": [3]}}}])
def test_pipeline_that_dvc_refuses_has_no_own_data(broken):
    assert own_data(broken, {}) == []


@pytest.mark.parametrize("name", NAMES)
def test_file_that_nobody_tracks_is_named_and_the_command_helps(repository, name):
    (repository / name).write_text("[]")
    (line,) = untracked(repository, [name])
    assert line.startswith(f"{name}: ")
    command = line.split("`")[1]
    assert shlex.split(command) == ["git", "add", name]
    subprocess.run(command, cwd=repository, shell=True, check=True)
    assert untracked(repository, [name]) == []


@pytest.mark.parametrize("name", ["data/mine.jsonl", "data/mine/part.jsonl"])
def test_file_that_dvc_keeps_counts_once_git_knows_of_it(repository, name):
    (repository / "data/mine.dvc").write_text("outs:\n- path: mine\n")
    (repository / "data/mine.jsonl.dvc").write_text("outs:\n- path: mine.jsonl\n")
    assert untracked(repository, [name])
    commit_all(repository)
    assert untracked(repository, [name]) == []


def test_dvcs_own_file_that_git_lacks_is_what_is_named(repository):
    (repository / "data/mine.jsonl.dvc").write_text("outs:\n- path: mine.jsonl\n")
    (line,) = untracked(repository, ["data/mine.jsonl"])
    assert "`git add data/mine.jsonl.dvc`" in line


def test_path_out_of_the_repository_is_refused_and_an_absolute_one_is_the_users_affair(repository):
    (line,) = untracked(repository, ["../far.json", "/far.json"])
    assert line.startswith("../far.json: ")


@pytest.fixture
def with_own_data(workplace):
    """A finished run whose settings name a file that nobody tracks."""
    (workplace / "data/mine.json").write_text((workplace / "data/smoke.json").read_text())
    text = (workplace / "params.yaml").read_text()
    (workplace / "params.yaml").write_text(text.replace("data/smoke.json", "data/mine.json"))
    git(workplace, "commit", "--quiet", "--no-verify", "--all", "--message", "mine")
    return workplace


@pytest.mark.parametrize(
    "use",
    [
        lambda root: verify(root, lock_only=True),
        lambda root: run_recipes(
            root, [Recipe(name="probe", group="default", about="x", set={"train.lr": 0.1})], queue=False
        ),
    ],
    ids=["verify", "recipe"],
)
def test_commands_that_copy_the_commit_name_the_file_before_dvc_starts(with_own_data, use):
    with pytest.raises(InstructError) as refused:
        use(with_own_data)
    (line,) = str(refused.value).splitlines()
    assert "data/mine.json: " in line and "`git add data/mine.json`" in line

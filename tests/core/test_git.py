"""Git in another folder, whatever this process was started by; and Git's refusals told from no repository."""

import subprocess

import pytest
from small_pipeline import commit_all, git, run

from instruct.core.errors import InstructError
from instruct.core.git import OF_ONE_REPOSITORY, ask_git, list_experiments
from instruct.results.revisions import list_revisions
from instruct.results.runs import read_run
from instruct.tools.results import result_lines
from instruct.tools.smoke import copy_tree


@pytest.fixture
def repository(tmp_path, hermetic):
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "file").write_text("1")
    commit_all(folder)
    return folder


def test_every_variable_that_leads_git_to_a_repository_is_dropped_and_settings_stay():
    known = subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True)
    settings = {"GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS"}
    assert set(known.stdout.split()) - settings <= OF_ONE_REPOSITORY


def test_git_answers_for_the_folder_and_not_for_the_hook_it_runs_in(repository, tmp_path, monkeypatch):
    other = tmp_path / "other"
    git(tmp_path, "init", "--quiet", str(other))
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index.lock"))
    assert ask_git(repository, "ls-files") == "file"
    assert ask_git(repository, "rev-parse", "--show-toplevel") == str(repository.resolve())


@pytest.mark.parametrize(
    "ask",
    [
        list_experiments,
        list_revisions,
        lambda root: read_run("HEAD", root),
        lambda root: copy_tree(root, root / "copy"),
        lambda root: result_lines(root, [], {}),
    ],
    ids=["experiments", "view", "compare", "smoke", "recipe"],
)
def test_a_folder_that_git_distrusts_is_not_taken_for_one_without_git(repository, monkeypatch, ask):
    """As in Docker, where the files belong to another user."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(InstructError) as refused:
        ask(repository)
    (line,) = str(refused.value).splitlines()
    assert "ownership" in line and "`git config --global --add safe.directory" in line


def test_without_a_repository_there_are_no_experiments(tmp_path):
    assert run("git", "rev-parse", "--git-dir", cwd=tmp_path).returncode
    assert list_experiments(tmp_path) == []
    assert [one.kind for one in list_revisions(tmp_path)] == ["workspace"]

"""DVC's table of locks, cut short by a kill, is mended; one that is in use is not."""

import json
import subprocess
import sys

import pytest
from small_pipeline import commit_all, git, run

from instruct.tools.programs import RWLOCK, git_names, mend_rwlock

HELD = '{"read": {}, "write": {"/data": {"pid": 1, "cmd": "dvc repro"}}}'


@pytest.fixture
def repository(tmp_path, hermetic):
    """A DVC repository with one quick stage and a lock table."""
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "dvc.yaml").write_text("stages: {work: {cmd: cp a b, deps: [a], outs: [b]}}")
    (tmp_path / "a").write_text("1")
    return tmp_path


@pytest.mark.parametrize("cut", ["", "{", HELD[:30], HELD[:-1], "\0" * 64, "[]"])
def test_table_that_a_kill_cut_short_is_removed_and_dvc_works_again(repository, capsys, cut):
    (repository / RWLOCK).write_text(cut)
    mend_rwlock(repository)
    assert not (repository / RWLOCK).exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(repository / RWLOCK))


def test_dvc_fails_on_such_a_table_and_instruct_mends_it(repository):
    (repository / RWLOCK).write_text("")
    assert "corrupted" in run("dvc", "repro", cwd=repository).stderr
    code = "from instruct.cli import run; run()"
    run(sys.executable, "-c", code, "human", "--help", cwd=repository)
    assert not (repository / RWLOCK).exists()
    assert run("dvc", "repro", cwd=repository).returncode == 0
    assert (repository / "b").read_text() == "1"


@pytest.mark.parametrize("table", [HELD, "{}"])
def test_whole_table_stays(repository, capsys, table):
    (repository / RWLOCK).write_text(table)
    mend_rwlock(repository)
    assert (repository / RWLOCK).read_text() == table and capsys.readouterr().err == ""


def test_table_of_a_dvc_that_works_here_stays(repository):
    (repository / RWLOCK).write_text("")
    (repository / "dvc").write_text("print(flush=True); input()")
    command = [sys.executable, "dvc"]
    with subprocess.Popen(command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        living.stdout.readline()
        mend_rwlock(repository)
        assert (repository / RWLOCK).read_text() == ""
        living.communicate(b"\n")
    mend_rwlock(repository)
    assert not (repository / RWLOCK).exists()


def test_folder_without_dvc_is_left_alone(tmp_path):
    mend_rwlock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_that_git_quotes_come_as_they_are(tmp_path, hermetic):
    git(tmp_path, "init", "--quiet")
    names = {"données.jsonl", "a b.json", 'q"t.json', "tab\t.json", "日本.json"}
    for name in names:
        (tmp_path / name).write_text(json.dumps(name))
    commit_all(tmp_path)
    assert set(git_names(tmp_path, "ls-files", "-z")) == names

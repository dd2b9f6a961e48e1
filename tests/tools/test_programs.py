"""DVC's table of locks, cut short by a kill, is mended; one that is in use is not."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from small_pipeline import commit_all, git, run

from instruct.core.errors import InstructError
from instruct.tools.programs import LOCK, RWLOCK, git_names, mend, mend_rwlock, require_new, run_dvc

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


LOCKED = """schema: '2.0'
stages:
  one:
    cmd: cp a b
    deps:
    - path: a
      hash: md5
      md5: c4ca4238a0b923820dcc509a6f75849b
      size: 1
    outs:
    - path: b
      hash: md5
      md5: c4ca4238a0b923820dcc509a6f75849b
      size: 1
  two:
    cmd: cp b c
    deps:
    - path: b
      hash: md5
      md5: c4ca4238a0b923820dcc509a6f75849b
      size: 1
"""


def test_lock_cut_at_any_byte_is_one_that_dvc_accepts_after_mending(tmp_path):
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml

    path = tmp_path / LOCK
    for length in range(len(LOCKED)):
        path.write_text(LOCKED[:length], encoding="utf-8")
        mend(tmp_path)
        if path.exists():
            COMPILED_LOCKFILE_SCHEMA(parse_yaml(path.read_text(encoding="utf-8"), path))
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        assert LOCKED.startswith(kept)
        assert "  one:" in kept or length < LOCKED.index("  two:"), "a whole stage is lost"


CONFLICT = "<<<<<<< HEAD\n      size: 1\n=======\n      size: 2\n>>>>>>> other\n"
LAST = LOCKED.rindex("      size: 1\n")  # of the last stage, where a cut file breaks off too


@pytest.mark.parametrize(
    "text",
    [
        LOCKED,
        LOCKED.replace("  two:", "<<<<<<< mine\n  two:"),
        LOCKED[:LAST] + CONFLICT,
        LOCKED[: LOCKED.index("  two:")].replace("      size: 1\n", CONFLICT),
        "stages: [",
        "a: b\n",
    ],
    ids=["whole", "conflict before a stage", "in the last stage", "in the only stage", "no table", "no lock"],
)
def test_lock_that_no_kill_cut_stays(tmp_path, text):
    (tmp_path / LOCK).write_text(text, encoding="utf-8")
    mend(tmp_path)
    assert (tmp_path / LOCK).read_text(encoding="utf-8") == text


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


def test_a_folder_to_keep_is_new_or_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "in/a/new"):
        require_new(tmp_path / name)
        assert (tmp_path / name).is_dir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing")
    for name, reason in {
        ".": "is not empty",
        "file": "is a file",
        "file/in": "cannot be made",
        "loop": "is a link to no folder",
        "nowhere": "is a link to no folder",
        "loop/in": "cannot be made",
    }.items():
        with pytest.raises(InstructError, match=f"^{re.escape(str(tmp_path / name))}: {reason}.*; give a new folder$"):
            require_new(tmp_path / name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_dvc_ends_with_the_command_that_runs_it(repository, number):
    (repository / "wait.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getppid()))\ntime.sleep(60)\n"
    )
    (repository / "dvc.yaml").write_text(f"stages: {{work: {{cmd: exec {sys.executable} wait.py, outs: [b]}}}}")
    code = "from pathlib import Path; from instruct.tools.programs import run_dvc; run_dvc(Path(), 'repro')"
    command = [sys.executable, "-c", code]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=repository, start_new_session=True, **output) as running:
        try:
            until = time.monotonic() + 60
            while not (repository / "pid").exists() or not (repository / "pid").read_text():
                assert time.monotonic() < until
                time.sleep(0.02)
            dvc = psutil.Process(int((repository / "pid").read_text()))
            assert dvc.parent().pid == running.pid
            running.send_signal(number)
            running.wait(60)
            dvc.wait(10)
        finally:
            os.killpg(running.pid, signal.SIGKILL)


def test_stage_in_a_copy_imports_the_code_of_the_copy(repository, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    (repository / "work.py").write_text("import beside\n")
    (repository / "beside.py").write_text("open('b', 'w').close()\n")
    (repository / "dvc.yaml").write_text(f"stages: {{work: {{cmd: {sys.executable} work.py, outs: [b]}}}}")
    assert run_dvc(repository, "repro", "--quiet") == 0
    assert (repository / "b").exists()

"""A lock is one holder's at a time, leaves no file, and goes with the process that held it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from instruct.core import locks
from instruct.core.errors import InstructError
from instruct.core.locks import hold

SRC = Path(__file__).parents[2] / "src"
HOLDER = """
import sys, time
sys.path.insert(0, {src!r})
from pathlib import Path
from instruct.core.locks import hold
with hold(Path({lock!r}), "x"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_never_two_hold_it_and_no_file_is_left(tmp_path):
    """Each adds one in two steps, between which another's would be lost."""
    lock, count = tmp_path / "folder" / "lock", tmp_path / "count"
    count.write_text("0")

    def add():
        for _ in range(10):
            with hold(lock, "count"):
                found = int(count.read_text())
                time.sleep(0.0005)
                count.write_text(str(found + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "40"
    assert list(lock.parent.iterdir()) == []


def test_a_file_that_its_holder_removed_before_it_was_locked_is_no_lock(tmp_path, monkeypatch):
    """Whoever made the next file of that name would hold the lock too."""
    path, lock = tmp_path / "lock", locks.lock

    def lock_late(descriptor):
        path.unlink()
        path.touch()
        lock(descriptor)

    monkeypatch.setattr(locks, "lock", lock_late)
    with pytest.raises(InstructError, match="another process"), hold(path, "x", wait_s=0):
        raise AssertionError("held")


def test_the_file_is_gone_before_the_lock_is_free(tmp_path, monkeypatch):
    """Otherwise a second holder could take the file, which the first then removes, and a third would make another."""
    path, close, left = tmp_path / "lock", os.close, []

    def note(descriptor):
        left.append(path.exists())
        close(descriptor)

    with hold(path, "x"):
        monkeypatch.setattr(os, "close", note)
    monkeypatch.undo()
    assert left == [False]


def test_lock_of_a_killed_process_is_free(tmp_path):
    command = [sys.executable, "-c", HOLDER.format(src=str(SRC), lock=str(tmp_path / "lock"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InstructError) as refused, hold(tmp_path / "lock", "data/x.json", wait_s=0.1):
            raise AssertionError("held twice")
        assert str(refused.value).startswith("data/x.json: ") and "\n" not in str(refused.value)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with hold(tmp_path / "lock", "data/x.json", wait_s=0.1):
            pass


def test_folder_that_cannot_hold_a_lock_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InstructError) as refused, hold(tmp_path / "file" / "lock", "x"):
        raise AssertionError("held")
    assert str(refused.value).startswith(str(tmp_path / "file" / "lock"))


def test_what_fails_while_it_is_held_lets_it_go(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "lock", "x"):
        raise KeyError
    with hold(tmp_path / "lock", "x", wait_s=0):
        pass

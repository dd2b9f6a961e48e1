"""An export that is stopped or killed leaves nothing, or nothing after the next export."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest
from exporting.small import ROOT, save_small

from instruct.exporting.whole import PROOF, whole_folder

# A shell that runs the tests in the background has them, and what they start, ignore Ctrl-C.
START = "import os, signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)"
# Writes half an export, says so, and waits.
HALF = f"""
{START}
from pathlib import Path
from instruct.exporting.whole import PROOF, whole_folder
with whole_folder(Path(sys.argv[1]), 0) as folder:
    (folder / PROOF).write_text("half")
    print("half", flush=True)
    time.sleep(60)
"""
# The command line, which waits for the program that checks the export, or without a check once the model is written.
REAL = f"""
{START}
from subprocess import Popen
from instruct.exporting import running, tensors
write, wait, running.__file__ = tensors.write_program, Popen.wait, "programs/running.py"

def write_slowly(*values, **more):
    write(*values, **more)
    if sys.argv[-1] == "0":
        print("half", flush=True)
        time.sleep(60)

def wait_aloud(process, *values, **more):
    if str(process.args[-1]).endswith("reply.json"):
        print("half", flush=True)
    return wait(process, *values, **more)

tensors.write_program, Popen.wait = write_slowly, wait_aloud
from instruct.cli import run; run()
"""


@contextmanager
def started(program, *arguments, cwd=None):
    """A process that has said that it is half done."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"half\n", process.stderr.read().decode()
            yield process
        finally:
            process.kill()


def ended(process, number):
    process.send_signal(number)
    return process.wait(timeout=60)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_whole(out):
    with whole_folder(out, 0) as folder:
        (folder / PROOF).write_text('"whole"')


def test_the_next_export_removes_what_killed_ones_left_and_nothing_else(tmp_path):
    (tmp_path / ".other.part").mkdir()
    (tmp_path / ".other.part/mine").write_text("mine")
    with ExitStack() as stack:
        killed, alive = (stack.enter_context(started(HALF, tmp_path / name)) for name in ("killed", "alive"))
        assert ended(killed, signal.SIGKILL) and len(names(tmp_path)) == 3
        write_whole(tmp_path / "next")
        left = [name for name in names(tmp_path) if name.endswith(".part")]
        assert len(left) == 2 and left[0].startswith(".alive.") and left[1] == ".other.part"
        assert (tmp_path / left[0] / "new" / PROOF).read_text() == "half"
        assert ended(alive, signal.SIGINT)
    assert names(tmp_path) == [".other.part", "next"] and (tmp_path / ".other.part/mine").is_file()


def test_an_older_export_survives_a_kill_while_it_is_replaced(tmp_path):
    write_whole(tmp_path / "out")
    with started(HALF, tmp_path / "out") as process:
        ended(process, signal.SIGKILL)
    (part,) = tmp_path.glob(".out.*.part")
    (tmp_path / "out").rename(part / "old")
    write_whole(tmp_path / "next")
    assert names(tmp_path) == ["next", "out"] and (tmp_path / "out" / PROOF).read_text() == '"whole"'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "number"),
    [("0", signal.SIGTERM), ("0", signal.SIGKILL), ("1", signal.SIGINT), ("1", signal.SIGTERM)],
)
def test_a_real_export_leaves_nothing_in_any_state(check, number, tmp_path):
    save_small(tmp_path / "c", "gpt2")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "test.json").write_text('[{"id": "a", "instruction": "Say it.", "input": "", "output": "It."}]')
    (tmp_path / "programs/runners").mkdir(parents=True)
    (tmp_path / "programs/runners/run.py").write_text("import time; time.sleep(60)")
    arguments = ["torch", "--checkpoint", "c", "--template", "alpaca", "--data", "test.json"]
    with started(REAL, "export", *arguments, "--check", check, cwd=tmp_path) as process:
        children = psutil.Process(process.pid).children()
        assert ended(process, number) and len(children) == int(check)
        if number != signal.SIGKILL:
            assert not psutil.wait_procs(children, timeout=30)[1]
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        assert b"Traceback" not in process.stderr.read()
    left = names(tmp_path / "build/export")
    assert len(left) == (number == signal.SIGKILL)
    write_whole(tmp_path / "build/export/next")
    assert names(tmp_path / "build/export") == ["next"]

"""Kills at random moments in every stage, of DVC, of the stage, of both, and Ctrl-C: the bytes are the same after."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from small_pipeline import content_of

from instruct.results.lock import lock_outs
from instruct.tools.programs import mend

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background ignores it
ROUNDS = 8
KINDS = ["dvc alone", "stage alone", "both", "ctrl-c"]
# What DVC does with its lock and its cache takes a moment too, before a stage and after it.
LATEST_S = 4.0


@pytest.fixture
def fresh(smoke, tmp_path):
    """The small pipeline as if nothing had ever run."""
    folder = tmp_path / "fresh"
    made = {smoke / ".dvc/cache", smoke / ".dvc/tmp", smoke / "dvc.lock"}
    made |= {path for path in (smoke / "metrics").iterdir() if path.name != "preferred"}  # which holds a README
    made |= {smoke / path for path in lock_outs(yaml.safe_load((smoke / "dvc.lock").read_text(encoding="utf-8")))}
    shutil.copytree(smoke, folder, ignore=lambda place, names: [name for name in names if Path(place, name) in made])
    return folder


class Repro:
    """One `dvc repro` in a session of its own, as a terminal starts it."""

    def __init__(self, folder, log):
        self._log, self._begin = log, log.stat().st_size if log.exists() else 0
        command = [sys.executable, "-m", "dvc", "repro"]
        with log.open("a") as file:
            self.process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, start_new_session=True)

    def said(self):
        return self._log.read_bytes()[self._begin :].decode("utf-8", "replace")

    def wait_for(self, stages):
        """Until one of the stages runs, or everything is done."""
        while not any(f"Running stage '{one}'" in self.said() for one in stages) and self.process.poll() is None:
            time.sleep(0.01)

    def strike(self, kind):
        """Returns whether there was still something to hit."""
        if self.process.poll() is not None:
            return False
        if kind == "dvc alone":
            self.process.kill()
        while kind == "stage alone" and self.process.poll() is None:  # between two stages, the next one
            with suppress(psutil.Error):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    child.kill()
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            if kind in ("both", "ctrl-c"):
                os.killpg(self.process.pid, signal.SIGKILL if kind == "both" else signal.SIGINT)
        self.process.wait()
        return True


@pytest.mark.parametrize("number", range(ROUNDS))
def test_pipeline_that_was_killed_in_every_stage_ends_in_the_same_bytes(fresh, smoke, hermetic, tmp_path, number):
    """One kill a stage and round, the kinds in turn, at a moment drawn from the round's number."""
    rng, log = random.Random(number), tmp_path / "log"
    stages = list(yaml.safe_load((fresh / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    hits = 0
    for turn in range(len(stages)):
        mend(fresh)
        repro = Repro(fresh, log)
        repro.wait_for(stages[turn:])  # a late strike may have let this one end
        time.sleep(rng.uniform(0, LATEST_S))
        hits += repro.strike(KINDS[(number + turn) % len(KINDS)])
    assert hits >= len(stages) // 2, log.read_text()
    mend(fresh)
    last = Repro(fresh, log)
    assert last.process.wait() == 0, last.said()
    assert tracebacks(log.read_text()) == []
    found, wanted = content_of(fresh), content_of(smoke)
    assert {name for name in found if name not in wanted} == set()
    assert [name for name in wanted if found.get(name) != wanted[name]] == []
    assert not [one for one in psutil.process_iter() if is_in(one, fresh)]


def tracebacks(text):
    """Those of a log, but for a Ctrl-C before `core/beginning.py` is imported, which gives it its meaning.

    Python itself starts before any line of ours; it prints such a traceback and no code of a script can prevent it.
    """
    found = re.findall(r"^Traceback .*\n(?:[ ].*\n|\n)*.*$", text, re.MULTILINE)
    return [one for one in found if not one.endswith("KeyboardInterrupt") or has_begun(one)]


def has_begun(traceback):
    """Whether a line of ours ran but for the import of `core/beginning.py`, and the imports in it."""
    frames = re.findall(r'File "(?:.*/)?src/([^"]*)", line \d+.*\n +(.*)', traceback)
    first = ("import instruct.core.beginning", "import ", "from ")
    return any(
        not code.startswith(first[1:] if file == "instruct/core/beginning.py" else first[0]) for file, code in frames
    )


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        (["raise KeyboardInterrupt"], True),
        (["import torch"], True),
        (["import instruct.core.beginning"], False),
        (["import instruct.core.beginning", "import torch"], True),
        (["int('x')"], True),
    ],
)
def test_only_a_ctrl_c_before_the_first_import_may_leave_a_traceback(tmp_path, lines, counts):
    for name, text in (("psutil", "raise KeyboardInterrupt"), ("torch", "raise KeyboardInterrupt")):
        (tmp_path / f"{name}.py").write_text(text)
    script = tmp_path / "src/script.py"
    script.parent.mkdir()
    if len(lines) > 1:
        (tmp_path / "psutil.py").unlink()
        lines = [lines[0], "import sys; sys.excepthook = sys.__excepthook__", *lines[1:]]  # as if it had no effect
    script.write_text("\n".join(lines))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.stderr.startswith("Traceback") and bool(tracebacks(done.stderr)) == counts


def is_in(process, folder):
    with suppress(psutil.Error):
        return process.cwd().startswith(str(folder))
    return False

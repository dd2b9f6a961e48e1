"""Runs Git and DVC for the tools."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from instruct.core.errors import InstructError
from instruct.core.git import call_git, complaint_of, outside_hooks

RWLOCK = Path(".dvc/tmp/rwlock")


def run_git(folder: Path, *arguments: str) -> str:
    """What Git prints; raises InstructError with Git's own words where it fails or cannot be started."""
    done = call_git(folder, *arguments)
    if done.returncode:
        raise InstructError(f"{folder}: git {arguments[0]} failed ({complaint_of(done)})")
    return done.stdout.decode("utf-8", "replace")


def git_names(folder: Path, *arguments: str) -> list[str]:
    """The file names that a command of Git prints with `-z`: as they are, where Git would quote them otherwise."""
    done = call_git(folder, *arguments)
    if done.returncode:
        raise InstructError(f"{folder}: git {arguments[0]} failed ({complaint_of(done)})")
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def run_dvc(folder: Path, *arguments: str) -> int:
    """Run DVC in `folder` with this Python first on the path; returns the exit status."""
    mend_rwlock(folder)
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=_environment()).returncode


def ask_dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same, with what DVC says in the result instead of on the screen."""
    mend_rwlock(folder)
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**outside_hooks(), "PATH": path, "DVC_NO_ANALYTICS": "1"}


def mend_rwlock(root: Path) -> None:
    """Remove DVC's table of locks where a kill has cut it short: every later `dvc repro` would fail on it.

    DVC 3.67 empties the file before it writes it again. Where a DVC still works in `root`, its table stays.
    """
    path = root / RWLOCK
    try:
        whole = isinstance(json.loads(path.read_bytes()), dict)
    except OSError:
        return
    except ValueError:
        whole = False
    if whole or any(_is_dvc_in(root, process) for process in psutil.process_iter()):
        return
    path.unlink(missing_ok=True)
    print(f"{path}: was cut short when DVC was killed; removed, DVC writes another", file=sys.stderr)


def _is_dvc_in(root: Path, process: psutil.Process) -> bool:
    """Whether a process is a DVC that works in `root`; one whose folder is a secret counts as such."""
    try:
        if not any(Path(part).name in ("dvc", "dvc.exe") for part in process.cmdline()):
            return False
        return Path(process.cwd()).resolve().is_relative_to(root.resolve())
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False

"""Runs Git and DVC for the tools."""

import os
import subprocess
import sys
from pathlib import Path

from instruct.errors import InstructError


def run_git(folder: Path, *arguments: str) -> str:
    """What Git prints; raises InstructError with Git's own words where it fails."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InstructError(f"{folder}: git {arguments[0]} failed ({said.removeprefix('fatal: ')})")
    return done.stdout


def run_dvc(folder: Path, *arguments: str) -> int:
    """Run DVC in `folder` with this Python first on the path; returns the exit status."""
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=_environment()).returncode


def ask_dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same, with what DVC says in the result instead of on the screen."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}

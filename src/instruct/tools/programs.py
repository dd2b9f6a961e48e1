"""Runs Git and DVC for the tools."""

import os
import subprocess
import sys
from pathlib import Path

from instruct.core.errors import InstructError
from instruct.core.git import call_git, complaint_of


def run_git(folder: Path, *arguments: str) -> str:
    """What Git prints; raises InstructError with Git's own words where it fails or cannot be started."""
    done = call_git(folder, *arguments)
    if done.returncode:
        raise InstructError(f"{folder}: git {arguments[0]} failed ({complaint_of(done)})")
    return done.stdout.decode("utf-8", "replace")


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

"""Reads Git for the tools that compare and show runs."""

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from instruct.core.errors import InstructError

# Git sets these for its hooks, and they would point a call in another folder back to the hook's repository. Settings
# that `git rev-parse --local-env-vars` also lists (GIT_CONFIG_COUNT ...) stay: CI names safe folders with them.
OF_ONE_REPOSITORY = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}

# DVC keeps an experiment as refs/exps/<first 2>/<other 38 digits of the commit it started from>/<its name>.
_EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A finished DVC experiment: its commit, the commit it started from, and its end time (ISO 8601, UTC)."""

    name: str
    commit: str
    baseline: str
    when: str


def outside_hooks() -> dict[str, str]:
    """The environment for Git and DVC in a folder of our choice, even if this process runs in a Git hook."""
    return {name: value for name, value in os.environ.items() if name not in OF_ONE_REPOSITORY}


def call_git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run Git in `root` with English messages; raises InstructError if it cannot be started."""
    try:
        environment = {**outside_hooks(), "LC_ALL": "C"}
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, env=environment)
    except OSError as error:
        if not root.is_dir():
            raise InstructError(f"{root}: is not a folder; give one that exists") from None
        reason = "it is not on PATH" if isinstance(error, FileNotFoundError) else error.strerror
        raise InstructError(f"git: cannot be run ({reason}); install Git, or correct PATH") from None


def read_git(root: Path, *arguments: str) -> bytes | None:
    """The bytes that Git prints in `root`, or None if Git fails or is not installed.

    Raises InstructError if Git distrusts the owner of the folder, which differs from a missing repository.
    """
    try:
        done = call_git(root, *arguments)
    except InstructError:
        return None
    if done.returncode and b"dubious ownership" in done.stderr:
        raise InstructError(f"{root}: Git refuses this folder ({complaint_of(done)})")
    return None if done.returncode else done.stdout


def ask_git(root: Path, *arguments: str) -> str | None:
    """The output of `read_git` as text, without blanks around it; replaces bytes that are not UTF-8."""
    said = read_git(root, *arguments)
    return None if said is None else said.decode("utf-8", "replace").strip()


def complaint_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """Git's error in one line, with the command it recommends if it distrusts the folder's owner."""
    lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith(("fatal: ", "error: "))), "no reason given")
    remedy = next((f"; run `{line}`" for line in lines if line.startswith("git config")), "")
    return said.partition(": ")[2] + remedy if ": " in said else said


def list_experiments(root: Path) -> list[Experiment]:
    """All experiments, newest first; empty without Git."""
    listed = ask_git(root, "for-each-ref", "--format=%(objectname) %(committerdate:unix) %(refname)", "refs/exps")
    found = []
    for line in (listed or "").splitlines():
        commit, seconds, ref = line.split(" ", 2)
        if match := _EXPERIMENT.fullmatch(ref):
            baseline, when = match[1] + match[2], utc_time(seconds)
            found.append(Experiment(name=match[3], commit=commit, baseline=baseline, when=when))
    return sorted(found, key=lambda one: (one.when, one.name), reverse=True)


def utc_time(seconds: str) -> str:
    """Seconds since 1970, as Git prints them, in ISO 8601 (UTC), so that texts sort like times."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()

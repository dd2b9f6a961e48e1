"""What Git knows, for the tools that compare and show runs."""

import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

# DVC keeps an experiment as refs/exps/<first 2>/<other 38 digits of the commit it started from>/<its name>.
_EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A finished DVC experiment: its commit, the commit that it was started from, and when it ended (ISO 8601, UTC)."""

    name: str
    commit: str
    baseline: str
    when: str


def ask_git(root: Path, *arguments: str) -> str | None:
    """What Git prints in `root`, or None where it refuses or is not there; what is no UTF-8 is replaced."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.decode("utf-8", "replace")


def list_experiments(root: Path) -> list[Experiment]:
    """All experiments, the newest first; none where there is no Git."""
    listed = ask_git(root, "for-each-ref", "--format=%(objectname) %(committerdate:unix) %(refname)", "refs/exps")
    found = []
    for line in (listed or "").splitlines():
        commit, seconds, ref = line.split(" ", 2)
        if match := _EXPERIMENT.fullmatch(ref):
            baseline, when = match[1] + match[2], utc_time(seconds)
            found.append(Experiment(name=match[3], commit=commit, baseline=baseline, when=when))
    return sorted(found, key=lambda one: (one.when, one.name), reverse=True)


def utc_time(seconds: str) -> str:
    """Seconds since 1970, as Git prints them, in ISO 8601; texts of one time zone sort as their times do."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()

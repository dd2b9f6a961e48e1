"""What `dvc metrics diff` says of two runs, without its second of work where Git alone tells the same.

Git does where dvc.yaml names every metric by its path and Git keeps them all, as JSON; else DVC is asked.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instruct.core.errors import DataError
from instruct.core.git import read_git
from instruct.core.inputs import PIPELINE, exists
from instruct.core.parsing import flatten, mapping, parse_json, parse_yaml
from instruct.results.revisions import WORKSPACE, Revision, read_files
from instruct.results.runs import Run

Metrics = Mapping[str, Mapping[str, Any] | None]  # by file and key; None for a file that does not exist
Rows = list[dict[str, Any]]


class _OnlyDvcKnows(Exception):
    """Git alone does not tell a run's metrics."""


class MetricsDiff:
    """The difference between two runs' metrics; where DVC is needed it works in the background until `read`."""

    def __init__(self, a: Run, b: Run, root: Path) -> None:
        self._runs = a, b
        self._dvc: subprocess.Popen[str] | None = None
        try:
            self._sides = [metrics_in_git(run, root) for run in (a, b)]
        except _OnlyDvcKnows:
            self._dvc = _start_dvc(a, b, root)

    def read(self) -> tuple[Rows, str]:
        """Rows of file, key, old, new and difference; and what is to be said of them."""
        if self._dvc:
            return _read_dvc(self._dvc)
        lacking = [
            f"{run.name} lacks {path}"
            for run, side in zip(self._runs, self._sides, strict=True)
            for path, values in side.items()
            if values is None
        ]
        return _told(_changes(*self._sides), "; ".join(lacking))


def metrics_in_git(run: Run, root: Path) -> Metrics:
    """A run's metrics as DVC names them; raises _OnlyDvcKnows."""
    try:
        _check_only_pipeline(run, root)
        paths = list(_paths(run, parse_yaml(_read(run, root, [PIPELINE]).get(PIPELINE, ""), PIPELINE)))
        files = _read(run, root, paths)
        return {path: _values(files[path], path) if path in files else None for path in paths}
    except DataError:
        raise _OnlyDvcKnows from None


def _read(run: Run, root: Path, paths: list[str]) -> dict[str, str]:
    (files,) = read_files(root, [Revision(name=run.name, kind="", commit=run.commit)], paths)
    return {path: content.decode("utf-8", "replace") for path, content in files.items()}


def _check_only_pipeline(run: Run, root: Path) -> None:
    """Raise where another folder has a dvc.yaml, whose metrics count too."""
    command = ("ls-tree", "-r", "-z", "--name-only", run.commit) if run.commit else ("ls-files", "-z")
    names = (read_git(root, *command) or b"").split(b"\0")
    if any(name.endswith(f"/{PIPELINE}".encode()) for name in names):
        raise _OnlyDvcKnows


def _paths(run: Run, pipeline: Any) -> Iterator[str]:
    """The files that the stages call metrics; raises where one is of another kind than Git's JSON."""
    if mapping(pipeline).get("metrics"):
        raise _OnlyDvcKnows
    for stage in mapping(mapping(pipeline).get("stages")).values():
        if not exists(stage, run.params):
            continue
        metrics = mapping(mapping(stage).get("do") or stage).get("metrics") or []
        for entry in metrics if isinstance(metrics, list) else [metrics]:
            path, options = next(iter(mapping(entry).items()), ("", None))
            if not path.endswith(".json") or "$" in path or mapping(options).get("cache") is not False:
                raise _OnlyDvcKnows
            yield path


def _values(text: str, where: str) -> dict[str, Any]:
    values = parse_json(text, where)
    if not isinstance(values, dict):
        raise _OnlyDvcKnows
    return {key: value for key, value in flatten(values).items() if isinstance(value, int | float | str)}


def _changes(old: Metrics, new: Metrics) -> dict[str, dict[str, dict[str, Any]]]:
    """The values that differ by file and key, in the form of `dvc metrics diff --json`."""
    files: dict[str, dict[str, dict[str, Any]]] = {}
    for path in {**old, **new}:
        one, other = old.get(path) or {}, new.get(path) or {}
        pairs = {key: (one.get(key), other.get(key)) for key in {**one, **other}}
        files[path] = {key: _change(*pair) for key, pair in pairs.items() if pair[0] != pair[1]}
    return files


def _change(old: Any, new: Any) -> dict[str, Any]:
    numbers = all(isinstance(one, int | float) for one in (old, new))
    return {"old": old, "new": new, **({"diff": new - old} if numbers else {})}


def _told(files: Mapping[str, Mapping[str, Mapping[str, Any]]], said: str) -> tuple[Rows, str]:
    rows = [
        {"file": file, "key": key, **{part: _number(values.get(part)) for part in ("old", "new", "diff")}}
        for file, keys in sorted(files.items())
        for key, values in sorted(keys.items())
    ]
    return rows, said or ("" if rows else "dvc metrics diff shows no difference")


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "" if value is None else str(value)


def _start_dvc(a: Run, b: Run, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dvc", "metrics", "diff", "--json", a.commit or WORKSPACE, b.commit or WORKSPACE]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _read_dvc(process: subprocess.Popen[str]) -> tuple[Rows, str]:
    """What DVC found; it goes on where a run is broken."""
    out, errors = process.communicate()
    try:
        files = json.loads(out or "{}")
    except ValueError:
        files = {}
    said = " ".join(line.removeprefix("ERROR: ").removeprefix("WARNING: ") for line in errors.split("\n") if line)
    if process.returncode:
        return [], f"dvc metrics diff failed: {said or 'no reason given'}"
    return _told(files.get("diff", files), said)

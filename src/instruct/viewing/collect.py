"""Gathers all runs: the small files from Git, the answers from the working tree or from DVC's cache."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instruct.core.errors import DataError
from instruct.core.parsing import flatten, mapping, parse_yaml
from instruct.core.records import Response
from instruct.results.lock import PARAMS
from instruct.results.revisions import Revision, list_revisions, read_files
from instruct.results.runs import IN_GIT, SCORES, Run, load_run
from instruct.results.stored import Cache, read_answers


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one revision: its settings, and its run, None if that is damaged.

    `answers` of each system are in the order of the run's scores. `missing` says what is missing, stale or leaked, and
    why.
    """

    revision: Revision
    params: dict[str, Any] = field(default_factory=dict)
    run: Run | None = None
    answers: dict[str, list[Response]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.revision.name


def collect_runs(root: Path, asked: Sequence[str] = ()) -> list[Entry]:
    """An entry for every run, in the order of `list_revisions`; a workspace equal to the branch at hand is left out."""
    revisions = list_revisions(root, asked)
    contents = read_files(root, revisions, IN_GIT)
    if len(contents) > 1 and contents[0] == contents[1]:
        revisions, contents = revisions[1:], contents[1:]
    cache = Cache(root)
    return [read_entry(one, files, cache) for one, files in zip(revisions, contents, strict=True)]


def read_entry(revision: Revision, files: Mapping[str, bytes], cache: Cache) -> Entry:
    """A revision's run and its answers."""
    params: dict[str, Any] = {}
    try:
        text = files.get(PARAMS, b"").decode("utf-8", "replace")
        params = flatten(mapping(parse_yaml(text, f"{PARAMS} of {revision.name}")))
        run = load_run(revision.name, files, commit=revision.commit)
    except DataError as error:
        return Entry(revision=revision, params=params, missing=(str(error),))
    found = {system: _answers_in_order(run, system, cache) for system in run.results.shown}
    stale = [f"stale: {line}" for line in run.stale]
    missing = [*stale, *filter(None, [run.leak]), *_gaps(run), *(reason for _, reason in found.values() if reason)]
    answers = {} if any(reason for _, reason in found.values()) else {name: rows for name, (rows, _) in found.items()}
    return Entry(revision=revision, params=params, run=run, answers=answers, missing=tuple(missing))


def _answers_in_order(run: Run, system: str, cache: Cache) -> tuple[list[Response], str]:
    """One system's answers in the order of the run's scores, or none and the reason in words."""
    answers, reason = read_answers(run, system, cache)
    by_id = {one.id: one for one in answers}
    if reason or by_id.keys() != run.kinds.keys():
        path = run.results.system(system).answers
        return [], reason or f"{SCORES} of {run.name} has other records than {path} (`dvc repro evaluate` writes it)"
    return [by_id[id_] for id_ in run.kinds], ""


def _gaps(run: Run) -> Iterable[str]:
    """A line for each curve that says of how many steps it has no loss, if of any."""
    for part, curve in run.curves.items():
        without = sum(finite(row["loss"]) is None for row in curve)
        if without:
            yield f"the {part} curve: {without} of {len(curve)} losses are not finite"


def finite(value: float | None) -> float | None:
    """The number, or None where it is NaN or too large to draw."""
    return value if value is not None and abs(value) < 1e300 else None

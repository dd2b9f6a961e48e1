"""The answers of a run, where DVC's cache has them; their absence is said, never an error."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from instruct.comparing.runs import LOCK, Run, fits_lock, lock_outs
from instruct.comparing.seeds import records_with
from instruct.core.errors import DataError
from instruct.core.parsing import parse_json

RESPONSES = "data/responses.json"
TEXTS = ("instruction", "output", "response")
Answer = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One record whose score changed, with an answer of each side; the scores are means over each side's runs."""

    id: str
    kind: str
    score_a: float
    score_b: float
    a: Answer | None
    b: Answer | None


def cache_folder(root: Path) -> subprocess.Popen[str]:
    """Ask DVC where its cache is; the answer takes half a second, so begin early."""
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "cache", "dir"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def read_answers(run: Run, root: Path, cache: Path | None) -> tuple[dict[str, Answer], str]:
    """The prompts, references and responses of a run by id, and if there are none the reason in words."""
    path = root / RESPONSES
    if run.commit:
        digest = lock_outs(run.lock).get(RESPONSES)
        if not digest:
            return {}, f"the dvc.lock of {run.name} does not name {RESPONSES}"
        path = (cache or root) / "files" / "md5" / digest[:2] / digest[2:]
    where = f"{RESPONSES} of {run.name}"
    try:
        content = path.read_bytes()
    except OSError:
        place = (
            "is not in DVC's cache here (`dvc fetch` with this revision brings it)" if run.commit else "is not there"
        )
        return {}, f"{where} {place}"
    if not fits_lock(content, RESPONSES, run.lock):
        return {}, f"{where} is not the one of {LOCK} (`dvc repro` makes the answers that were judged)"
    try:
        rows = parse_json(content.decode("utf-8", "replace").removeprefix("\ufeff"), where)
        return {row["id"]: _texts(row) for row in rows}, ""
    except (DataError, TypeError, KeyError):
        return {}, f"{where} is not a file of responses, each with the texts id, {', '.join(TEXTS)}"


def _texts(row: dict[str, Any]) -> Answer:
    """The texts of one response; raises TypeError or KeyError where one is absent or no text."""
    texts = {name: row[name] for name in ("id", *TEXTS)} | {"input": row.get("input") or ""}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("not a text")
    return texts


def mean_scores(a: Sequence[Run], b: Sequence[Run], score: str) -> dict[str, tuple[float, float]]:
    """Each side's mean over its runs, by record, of the records that have this score in every run."""
    ids = records_with((*a, *b), score)
    one, other = ({id_: fmean(run.scores[score][id_] or 0.0 for run in side) for id_ in ids} for side in (a, b))
    return {id_: (one[id_], other[id_]) for id_ in ids}


def biggest_changes(
    a: Sequence[Run], b: Sequence[Run], score: str, answers: Sequence[dict[str, Answer]], count: int, *, better: bool
) -> list[Change]:
    """The records that gained (or lost) most of one score from A to B, with `answers` of a run of each side."""
    changes = []
    for id_, (before, after) in mean_scores(a, b, score).items():
        if after > before if better else after < before:
            left, right = (side.get(id_) for side in answers)
            changes.append(Change(id=id_, kind=a[0].kinds[id_], score_a=before, score_b=after, a=left, b=right))
    return sorted(changes, key=lambda one: (-abs(one.score_b - one.score_a), one.id))[:count]

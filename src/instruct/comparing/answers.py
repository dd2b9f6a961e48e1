"""The answers of a run, where DVC's cache has them; their absence is said, never an error."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruct.comparing.runs import Run

RESPONSES = "data/responses.json"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One record whose score changed, with both answers; `a` and `b` are the responses, as `generate` wrote them."""

    id: str
    kind: str
    score_a: float
    score_b: float
    a: dict[str, Any] | None
    b: dict[str, Any] | None


def cache_folder(root: Path) -> subprocess.Popen[str]:
    """Ask DVC where its cache is; the answer takes half a second, so begin early."""
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "cache", "dir"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def read_answers(run: Run, root: Path, cache: Path | None) -> tuple[dict[str, dict[str, Any]], str]:
    """The responses of a run by id, and if there are none the reason in words."""
    path = root / RESPONSES
    if run.commit:
        outs = [out for stage in run.lock.get("stages", {}).values() for out in stage.get("outs", [])]
        digest = next((str(out.get("md5", "")) for out in outs if out.get("path") == RESPONSES), "")
        if not digest:
            return {}, f"the dvc.lock of {run.name} does not name {RESPONSES}"
        path = (cache or root) / "files" / "md5" / digest[:2] / digest[2:]
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {row["id"]: row for row in rows}, ""
    except OSError:
        place = (
            "is not in DVC's cache here (`dvc fetch` with this revision brings it)" if run.commit else "is not there"
        )
        return {}, f"{RESPONSES} of {run.name} {place}"
    except (ValueError, TypeError, KeyError):
        return {}, f"{RESPONSES} of {run.name} is not a file of responses"


def biggest_changes(
    a: Run, b: Run, score: str, answers: Sequence[dict[str, dict[str, Any]]], count: int, *, better: bool
) -> list[Change]:
    """The records that gained (or lost) most of one score from A to B."""
    changes = []
    for id_, before in a.scores[score].items():
        after = b.scores[score].get(id_)
        if before is not None and after is not None and (after > before if better else after < before):
            left, right = (side.get(id_) for side in answers)
            changes.append(Change(id=id_, kind=a.kinds[id_], score_a=before, score_b=after, a=left, b=right))
    return sorted(changes, key=lambda one: (-abs(one.score_b - one.score_a), one.id))[:count]

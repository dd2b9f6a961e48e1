"""The data inside the page: each list once, whatever number of runs share it, and nothing that could end a script."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import inf
from typing import Any

from markupsafe import Markup

from instruct.core.records import Response, earlier_turns
from instruct.report.earlier import name_earlier
from instruct.results.runs import Run
from instruct.viewing.collect import Entry, finite

CURVE_POINTS = 400


class Blocks:
    """Blocks of JSON by name; equal content has one name."""

    def __init__(self) -> None:
        self.texts: dict[str, Markup] = {}

    def add(self, value: Any) -> str:
        """Keep a value and return the name under which the page finds it."""
        text = script_json(value)
        name = f"b{sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"
        self.texts[name] = text
        return name


def script_json(value: Any) -> Markup:
    """JSON that stays inside its script element: `<` is written as an escape, so no tag or comment can begin."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def run_data(entry: Entry, blocks: Blocks, room: int) -> tuple[dict[str, Any], int]:
    """What the page's scripts know of a run, and how many answers it took; with no room left their texts stay out."""
    values: dict[str, Any] = {"name": entry.name, "missing": entry.missing, "left_out": False}
    if not (run := entry.run):
        return values | {"judge": "", "curves": None, "records": None, "systems": {}, "scores": None}, 0
    size = sum(map(len, entry.answers.values()))
    left_out = size > room
    texts = {} if left_out else entry.answers
    values |= {
        "judge": run.results.main_judge.name,
        "primary": run.results.primary,
        "against": run.results.against,
        "curves": blocks.add({part: _curve(part, rows) for part, rows in run.curves.items()}) if run.curves else None,
        "records": blocks.add(_records(run, texts)),
        "systems": {name: blocks.add(_texts(answers)) for name, answers in texts.items()},
        "scores": blocks.add(
            {
                name: {system: [scores[id_] for id_ in run.kinds] for system, scores in systems.items()}
                for name, systems in run.table.scores.items()
            }
        ),
        "left_out": left_out,
    }
    return values, 0 if left_out else size


def _records(run: Run, answers: Mapping[str, Sequence[Response]]) -> dict[str, list[Any]]:
    """The columns of the records, in the order of the scores; texts only if there are answers."""
    columns: dict[str, list[Any]] = {"id": list(run.kinds), "kind": list(run.kinds.values())}
    if answers:
        rows = answers[run.results.primary]
        columns |= {name: [getattr(row, name) for row in rows] for name in ("instruction", "input", "output")}
        if any(earlier := [earlier_turns(row) for row in rows]):
            columns |= {"earlier": earlier, "name_earlier": [name_earlier(row) for row in rows]}
    return columns


def _texts(answers: Sequence[Response]) -> dict[str, list[Any]]:
    return {
        "text": [one.response for one in answers],
        "stop": [one.stop_reason for one in answers],
        "cut": [one.truncated_tokens for one in answers],
    }


def _curve(part: str, rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """The columns of a curve, None for what is not finite.

    Of a very long one there are every n-th point, the last, and the lowest of validation. The lowest of training would
    bend the mean over neighbours that the page draws.
    """
    every = max(1, len(rows) // CURVE_POINTS)
    losses = [inf if (loss := finite(row["loss"])) is None else loss for row in rows]
    lowest = min(range(len(rows)), key=losses.__getitem__, default=0)
    always = {len(rows) - 1, lowest} if part == "val" else {len(rows) - 1}
    kept = [row for place, row in enumerate(rows) if place % every == 0 or place in always]
    columns = [key for key in ("step", "tokens", "loss", "lr") if rows and key in rows[0]]
    return {key: [finite(row[key]) for row in kept] for key in columns}

"""The data inside the page: each list once, whatever number of runs share it, and nothing that could end a script."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from markupsafe import Markup

from instruct.viewing.runs import Run, finite, parse_number

CURVE_POINTS = 400
FIELDS = ("id", "kind", "instruction", "input", "output")


class Blocks:
    """Blocks of JSON by name; equal content has one name."""

    def __init__(self) -> None:
        self.texts: dict[str, Markup] = {}

    def add(self, value: Any) -> str:
        """Keep a value and return the name under which the page finds it."""
        text = script_json(value)
        name = f"b{sha256(text.encode()).hexdigest()[:16]}"
        self.texts[name] = text
        return name


def script_json(value: Any) -> Markup:
    """JSON that stays inside its script element: `<` is written as an escape, so no tag or comment can begin."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def run_data(run: Run, blocks: Blocks, room: int) -> tuple[dict[str, Any], int]:
    """What the page's scripts know of a run, and how many answers it took; with no room left their texts stay out."""
    records, systems = _texts(run)
    size = sum(len(answers["text"]) for answers in systems.values())
    left_out = size > room
    if left_out:
        records, systems = {key: records[key] for key in ("id", "kind")}, {}
    values: dict[str, Any] = {
        "name": run.name,
        "judge": run.judge,
        "curves": blocks.add({name: _curve(rows) for name, rows in run.curves.items()}) if run.curves else None,
        "records": blocks.add(records) if records.get("id") else None,
        "systems": {name: blocks.add(answers) for name, answers in systems.items()},
        "scores": blocks.add(_scores(run, records["id"])) if records.get("id") and run.scores else None,
        "left_out": left_out,
        "missing": run.missing,
    }
    return values, 0 if left_out else size


def _texts(run: Run) -> tuple[dict[str, list[str]], dict[str, dict[str, list[Any]]]]:
    rows: Sequence[Mapping[str, Any]] = run.answers.get("tuned") or run.records
    records = {key: [str(row.get(key, "")) for row in rows] for key in (FIELDS if run.answers else ("id", "kind"))}
    systems: dict[str, dict[str, list[Any]]] = {}
    for system, answers in run.answers.items():
        by_id = {row["id"]: row for row in answers}
        found = [by_id.get(id_, {}) for id_ in records["id"]]
        systems[system] = {
            "text": [str(row.get("response", "")) for row in found],
            "stop": [str(row.get("stop_reason", "")) for row in found],
            "cut": [finite(row.get("truncated_tokens")) or 0 for row in found],
        }
    return records, systems


def _scores(run: Run, ids: Sequence[str]) -> dict[str, dict[str, list[float | None]]]:
    return {
        judge: {system: [scores.get((system, id_)) for id_ in ids] for system in ("base", "tuned")}
        for judge, scores in run.scores.items()
    }


def _curve(rows: Sequence[Mapping[str, str]]) -> dict[str, list[float | None]]:
    """The columns of a curve as numbers, None where there is none; of a very long one every n-th point and the last."""
    every = max(1, len(rows) // CURVE_POINTS)
    kept = [row for place, row in enumerate(rows) if place % every == 0 or place == len(rows) - 1]
    columns = [key for key in ("step", "tokens", "loss", "lr") if rows and key in rows[0]]
    return {key: [parse_number(row[key]) for row in kept] for key in columns}

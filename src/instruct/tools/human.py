"""Collects people's scores at the terminal: one answer at a time, blind, saved after each."""

import textwrap
from collections.abc import Callable
from pathlib import Path

from instruct.core.errors import DataError
from instruct.evaluation.human import blank_rows, merge_rows, parse_human_score, read_rows, write_rows
from instruct.evaluation.judges.base import Answers

FILE = Path("data/human-scores.csv")
SCALE = "100 fully correct · 75 a small flaw · 50 partly · 25 mostly wrong · 0 wrong, empty or off the task"


def make_blank(answers: Answers, *, count: int, seed: int, path: Path = FILE) -> tuple[int, int]:
    """Put answers to `count` records into the file beside those already scored; returns the blank and the scored."""
    old = read_rows(path) if path.is_file() else []
    rows = merge_rows(old, blank_rows(answers, count, seed))
    write_rows(path, rows)
    scored = sum(bool(row["score"]) for row in rows)
    return len(rows) - scored, scored


def fill(ask: Callable[[str], str], show: Callable[[str], None], path: Path = FILE) -> int:
    """Ask for missing scores until none is missing or the reader stops; returns how many are left.

    Raises DataError for a file without answers.

    `ask` raises EOFError or KeyboardInterrupt to end; every score is in the file by then.
    """
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path}: holds no answers to score; run `instruct human blank` first")
    waiting = [row for row in rows if not row["score"]]
    if waiting:
        show(f"{SCALE}\nEnter skips, b goes back, q ends; each score is saved at once")
    place = 0
    while place < len(waiting):
        row = waiting[place]
        show(describe_row(row, place + 1, len(waiting)))
        try:
            said = ask("score 0-100: ").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if said.lower() == "q":
            break
        if said.lower() == "b":
            place = max(0, place - 1)
        elif not said:
            place += 1
        elif parse_human_score(said) is None:
            show(f"{said!r} is not a number from 0 to 100")
        else:
            row["score"] = said
            write_rows(path, rows)
            place += 1
    return sum(not row["score"] for row in rows)


def describe_row(row: dict[str, str], number: int, total: int) -> str:
    """One answer with its task, as it is shown; control characters are spelled out."""
    parts = [f"\n—— {number} of {total} " + "—" * 40]
    for name in ("instruction", "input", "reference", "response"):
        text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in row[name])
        if row[name] or name == "response":
            parts.append(f"{name}:\n{textwrap.indent(text or '(empty)', '    ')}")
    return "\n".join(parts)

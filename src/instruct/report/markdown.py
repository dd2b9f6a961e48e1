"""Texts and tables as Markdown for a comment on GitHub, in which nothing of them is read as markup or as a mention."""

import re
from typing import Any

from markupsafe import escape

from instruct.report.tables import Cell, Table

CELL, LINE = 200, 1000  # characters of a table's cell and of a line
# Nobody is called by GitHub, and nothing linked, where a character without width follows the sign.
_CALLS = re.compile(r"([@#]|\bGH-)(?=\w)", re.IGNORECASE)
_JOINER = "\u200d"


def cell(text: Any) -> str:
    """Text for a cell of a Markdown table, or wherever a few words stand."""
    return _plain(text, CELL)


def line(text: Any) -> str:
    """Text for a line of Markdown."""
    return _plain(text, LINE)


def _plain(text: Any, longest: int) -> str:
    """One line of Markdown that shows the text as it is, whatever signs are in it."""
    safe = _cut_to(" ".join(str(text).split()), longest).replace("&", "&amp;").replace("<", "&lt;")
    safe = re.sub(r"([\\`*_~\[\]!#|$])", r"\\\1", safe)
    safe = re.sub(r"^(\d*)([-+.)](?=\s)|[>=])", r"\1\\\2", safe)  # what begins a list, a quotation or a heading
    safe = safe.replace("://", r":\/\/").replace("www.", r"www\.")  # addresses that GitHub would link
    return _CALLS.sub(rf"\1{_JOINER}", safe)


def summary(text: Any) -> str:
    """Text inside an HTML element of report.md, where Markdown is not read."""
    return str(escape(_CALLS.sub(rf"\1{_JOINER}", _cut_to(" ".join(str(text).split()), CELL))))


def _cut_to(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def fence(text: str) -> str:
    """Text as a fenced block of Markdown that it cannot close itself."""
    longest, run = 0, 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def table(one: Table) -> str:
    """A table; its numbers are on the right, as in HTML."""
    right = "---" if one.words else "---:"
    lines = [" | ".join(map(cell, one.head)), "|".join(["---", *[right] * (len(one.head) - 1)])]
    for row in one.cells:
        lines.append(" | ".join(_in_cell(found) for found in row))
    return f"| {lines[0]} |\n|{lines[1]}|\n" + "\n".join(f"| {text} |" for text in lines[2:])


def _in_cell(found: Cell) -> str:
    parts = [f"**{cell(found.text)}**" if found.tone == "strong" else cell(found.text)]
    parts += [cell(text) for text in (found.small, *(one.text for one in found.lines)) if text]
    return " ".join(parts)

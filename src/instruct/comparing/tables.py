"""The tables of a comparison, for the page and for the comment."""

from collections.abc import Mapping, Sequence
from typing import Any

from instruct.comparing.compare import Comparison, side_name
from instruct.comparing.scores import ScoreChange
from instruct.report.tables import Cell, Table, interval

TONES = {"better": "good", "higher": "good", "worse": "bad", "lower": "bad"}


def change_table(comparison: Comparison) -> Table:
    """Every score of both sides, the primary one first, with what may be said of the difference."""
    heads = ("difference", "95 % interval", "p", "p, adjusted", "won / tied / lost", "verdict")
    return Table(
        name="Scores",
        head=("score", side_name(comparison.a), side_name(comparison.b), *heads),
        rows=[_row(one, comparison.withheld(one)) for one in comparison.scores],
    )


def _row(one: ScoreChange, withheld: str) -> list[Cell | str]:
    lacking = f" ({one.count} of {one.count + one.missing} have the score)" if one.missing else ""
    return [
        f"{one.title} (exploratory)" if one.exploratory else one.title,
        f"{one.a:.1f}",
        f"{one.b:.1f}",
        f"{one.difference.mean:+.1f}",
        interval(one.difference.low, one.difference.high, "{:+.1f}"),
        f"{one.p_value:.2g}",
        f"{one.corrected:.2g}" if one.exploratory else "",
        f"{one.wins} / {one.ties} / {one.losses}",
        Cell(withheld + lacking) if withheld else verdict_cell(one, comparable=True, more=lacking),
    ]


def verdict_cell(one: ScoreChange, *, comparable: bool, more: str = "") -> Cell:
    """What may be said of a difference, in its colour; nothing of runs that are not comparable."""
    verdict = one.in_words if comparable else "not comparable"
    return Cell(verdict + more, tone=TONES.get(one.verdict, "") if comparable else "")


def value_table(what: str, a: str, b: str, values: Mapping[str, tuple[str, str]]) -> Table:
    """What differs between two runs by name."""
    return Table(name=f"{what}s", head=(what, a, b), rows=[(name, *both) for name, both in values.items()], words=True)


def metric_table(a: str, b: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """What `dvc metrics diff` found."""
    made = [(row["key"], row["old"], row["new"], row["diff"], row["file"]) for row in rows]
    return Table(name="Metrics", head=("metric", a, b, "change", "file"), rows=made)

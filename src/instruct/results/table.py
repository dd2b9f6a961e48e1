"""metrics/scores.csv: every score of every test record, one row a record, one column for each score and system."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from instruct.core.errors import DataError
from instruct.core.files import parse_csv
from instruct.results.schema import ACCURACY, DETAILS, REMEDY, SIMILARITY, Results
from instruct.results.scores import Difference

HUMAN = "human"
KEYS = ("id", "kind", "group")
ROUNDING = 0.0002  # points by which a mean of rounded scores may differ from that of the scores as they were
Scores = dict[str, float | None]
"""Scores of one system by record id; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Kind and group of each record by its id, and `scores` by score name, system and id."""

    kinds: dict[str, str]
    groups: dict[str, str]
    scores: dict[str, dict[str, Scores]]


def score_names(results: Results, *, human: bool = False) -> list[str]:
    """The scores in order: of the judges, of people if any gave one, and the measures."""
    judges = [judge.name for judge in results.judges]
    return list(dict.fromkeys([*judges, *([HUMAN] if human else []), *results.measures]))


def column(score: str, system: str) -> str:
    """The column of a score of a system. No dot is in it but a judge's own, since charts read a dot as a path."""
    return f"{score}_{system}"


def table_columns(names: Sequence[str], systems: Sequence[str]) -> list[str]:
    """The header."""
    return [*KEYS, *(column(name, system) for name in names for system in systems)]


def table_rows(table: Table) -> Iterator[dict[str, Any]]:
    """One row a record; a score that does not exist stays empty."""
    for id_, kind in table.kinds.items():
        row: dict[str, Any] = {"id": id_, "kind": kind, "group": table.groups[id_]}
        for name, systems in table.scores.items():
            found = {column(name, system): scores.get(id_) for system, scores in systems.items()}
            row |= {key: score for key, score in found.items() if score is not None}
        yield row


def load_table(text: str, where: str, results: Results) -> Table:
    """The table that belongs to `results`; raises DataError that begins with `where` and names line and column."""
    columns, rows = parse_csv(text, where)
    human = any(name.startswith(f"{HUMAN}_") for name in columns)
    names = score_names(results, human=human)
    if columns != table_columns(names, results.names):
        raise DataError(f"{where}: has other columns than the judges and systems of metrics/evaluate.json; {REMEDY}")
    table = Table(kinds={}, groups={}, scores={name: {system: {} for system in results.names} for name in names})
    for line, row in enumerate(rows, start=2):
        id_ = row["id"]
        if not id_ or id_ in table.kinds:
            raise DataError(f'{where}:{line}: id "{id_ or ""}" is empty or appears twice; {REMEDY}')
        table.kinds[id_] = row["kind"] or ""
        table.groups[id_] = row["group"] or f"\x1f{id_}"  # a record without a group is its own
        for name, systems in table.scores.items():
            for system, scores in systems.items():
                scores[id_] = _score(row[column(name, system)], f"{where}:{line}: {column(name, system)}")
    if len(table.kinds) != results.test.records:
        raise DataError(
            f"{where}: has {len(table.kinds)} records, metrics/evaluate.json {results.test.records}; {REMEDY}"
        )
    _require_agreement(table, where, results)
    return table


def count_groups(table: Table, score: str, one: Difference) -> int:
    """How many groups of near-duplicates a difference in a score is over; `score` may be of HEADLINE or DETAILS."""
    scores = table.scores[score if score in table.scores else SIMILARITY]
    both = [id_ for id_ in table.groups if None not in (scores[one.system].get(id_), scores[one.against].get(id_))]
    if score not in table.scores:  # similarity of open or of closed questions alone
        closed, right = score in DETAILS, table.scores[ACCURACY][one.system]
        both = [id_ for id_ in both if (right.get(id_) is not None) == closed]
    return len({table.groups[id_] or f"\x1f{id_}" for id_ in both})


def _require_agreement(table: Table, where: str, results: Results) -> None:
    """Raise DataError where the scores of a column do not come to the number and mean that the results give."""
    for name, system, count, mean in _told(results):
        scores = [score for score in table.scores[name][system].values() if score is not None]
        same = count is None or len(scores) == count
        if same and scores and mean is not None:
            same = abs(fmean(scores) - mean) <= ROUNDING
        if not same:
            found = f"{len(scores)} scores" + (f" with mean {fmean(scores):.4f}" if scores else "")
            told = ", ".join([f"{count} scores"] * (count is not None) + [f"mean {mean}"] * (mean is not None))
            raise DataError(f"{where}: {column(name, system)} has {found}, metrics/evaluate.json {told}; {REMEDY}")


def _told(results: Results) -> Iterator[tuple[str, str, int | None, float | None]]:
    """Score, system, number of scores (None where it is not told) and mean of each column, as the results have them."""
    for judge in results.judges:
        for one in judge.systems:
            yield judge.name, one.system, one.scored, one.mean
    for system in results.systems:
        for name in results.measures:
            yield name, system.name, None, system.measures.get(name)


def _score(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 100:
        raise DataError(f'{where}: "{text}" is not a number from 0 to 100; {REMEDY}')
    return score

"""People's scores: a file with the answers in it, blind as to which system gave them, filled in by hand or one by one.

A score belongs to an answer's text, not to a system: it stays true when models are trained again, and counts again
as soon as some model gives that answer.
"""

import random
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from instruct.core.errors import DataError
from instruct.core.files import read_csv, write_csv
from instruct.core.records import Response, with_earlier
from instruct.evaluation.judges.base import Answers
from instruct.results.table import Scores

COLUMNS = ("answer", "score", "note", "instruction", "input", "reference", "response")

Row = dict[str, str]


def answer_key(response: Response) -> str:
    """12 hexadecimal digits for a task, what was said before it, and the answer to it."""
    parts = [response.instruction, response.input, response.output, response.response]
    if response.system or response.history:  # a single question's key is as it was before there were chats
        parts += [response.system, *(part for turn in response.history for part in turn)]
    text = "\x1f".join(parts)
    return sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]


def blank_rows(answers: Answers, count: int, seed: int) -> list[Row]:
    """Answers of all systems to `count` records, in random order, each text once and without its system."""
    rng = random.Random(seed)
    records = len(next(iter(answers.values())))
    places = rng.sample(range(records), min(count, records))
    chosen = {answer_key(one[place]): one[place] for one in answers.values() for place in places}
    rows = [
        {
            "answer": key,
            "score": "",
            "note": "",
            "instruction": with_earlier(one, one.instruction),
            "input": one.input,
            "reference": one.output,
            "response": one.response,
        }
        for key, one in sorted(chosen.items())
    ]
    rng.shuffle(rows)
    return rows


def merge_rows(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The old rows that hold a score or a note, then the new ones that are not among them."""
    kept = [row for row in old if row["score"] or row["note"].strip()]
    there = {row["answer"] for row in kept}
    return kept + [row for row in new if row["answer"] not in there]


def read_rows(path: Path) -> list[Row]:
    """Read the file strictly; raises DataError that names the row and what is wrong with it."""
    rows = read_csv(path)
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        if set(row) != set(COLUMNS) or any(not isinstance(value, str) for value in row.values()):
            raise DataError(
                f"{where}: must have the columns {', '.join(COLUMNS)}; make one with `instruct human blank`"
            )
        if row["answer"] in seen:
            raise DataError(f"{where}: the answer {row['answer']} is also in row {seen[row['answer']]}; remove one")
        seen[row["answer"]] = number
        row["score"] = row["score"].strip()
        if row["score"] and parse_human_score(row["score"]) is None:
            raise DataError(
                f"{where}: the score {row['score']!r} must be a number from 0 to 100; correct it or leave it empty"
            )
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the file."""
    write_csv(path, COLUMNS, rows, edited=True)


def parse_human_score(text: str) -> float | None:
    """A number from 0 to 100, or None.

    >>> parse_human_score("85"), parse_human_score(" 7.5 "), parse_human_score("101"), parse_human_score("nan")
    (85.0, 7.5, None, None)
    """
    try:
        score = float(text)
    except ValueError:
        return None
    return score if text.isascii() and 0 <= score <= 100 else None


def human_scores(rows: Sequence[Row], answers: Answers) -> tuple[dict[str, Scores], int]:
    """People's scores of each system by record id, and how many scores are of answers that no system gives now."""
    known = {row["answer"]: parse_human_score(row["score"]) for row in rows if row["score"]}
    scores: dict[str, Scores] = {
        system: {one.id: known.get(answer_key(one)) for one in responses} for system, responses in answers.items()
    }
    used = {answer_key(one) for responses in answers.values() for one in responses}
    return scores, len(known.keys() - used)


def count_scored(scores: Mapping[str, Scores]) -> int:
    """How many answers people scored."""
    return sum(score is not None for one in scores.values() for score in one.values())

"""Open questions in MT-Bench's file format: one JSON object per line, with turns and optional references."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruct.core.errors import DataError
from instruct.core.files import read_text
from instruct.core.records import Example, Turn


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with its follow-ups; `references` has one text per turn, empty if unknown."""

    id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...]

    def example(self, turn: int, answers: tuple[str, ...] = ()) -> Example:
        """The record of a turn (from 0), with the questions before it and the model's own answers as its history."""
        assert len(answers) == turn
        return Example(
            id=f"{self.id}-{turn + 1}",
            kind=self.category,
            instruction=self.turns[turn],
            input="",
            output=self.references[turn],
            history=tuple(Turn(asked, output=answer) for asked, answer in zip(self.turns, answers, strict=False)),
        )


def read_questions(path: Path) -> list[Question]:
    """Read a file of questions; raises DataError that names the line and what is wrong with it."""
    questions: list[Question] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path}:{number}: not JSON; write one JSON object per line") from None
        question = _question(row, f"{path}:{number}")
        if any(one.id == question.id for one in questions):
            raise DataError(f"{path}:{number}: question_id {question.id} appears twice; give each question its own")
        questions.append(question)
    if not questions:
        raise DataError(f"{path}: holds no questions")
    return questions


def _question(row: Any, where: str) -> Question:
    if not isinstance(row, dict) or not isinstance(row.get("question_id"), int | str):
        raise DataError(f"{where}: needs a question_id and turns, as in MT-Bench's question.jsonl")
    turns = row.get("turns")
    if not _texts(turns) or not turns or not all(turn.strip() for turn in turns):
        raise DataError(f"{where}: turns must be a list of texts, at least one and none empty")
    references = row.get("reference", [])
    if not _texts(references) or len(references) not in (0, len(turns)):
        raise DataError(f"{where}: reference must be a list of as many texts as turns, or be left out")
    return Question(
        id=str(row["question_id"]),
        category=str(row.get("category", "")),
        turns=tuple(turns),
        references=tuple(references) or ("",) * len(turns),
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)

"""Verdicts of every judge on every answer; nothing is dropped on the way."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from instruct.core.errors import DataError, JudgeError
from instruct.core.records import Response
from instruct.core.shown import printable
from instruct.evaluation.judges.base import Answers, Judge, Verdict
from instruct.results.schema import DECIMALS
from instruct.results.table import Scores


@dataclass(frozen=True, kw_only=True)
class Judgement(Verdict):
    """One judge's verdict on one answer of one system, its numbers rounded."""

    id: str
    judge: str
    system: str
    kind: str


def check_answers(answers: Answers) -> None:
    """Raise DataError where the systems did not answer the same records, each once."""
    records = [[(one.id, one.instruction, one.input, one.output) for one in system] for system in answers.values()]
    if any(system != records[0] for system in records):
        names = ", ".join(answers)
        raise DataError(f"{names}: answered different records; run `dvc repro` so that all are of one test set")
    if not records[0] or len({id_ for id_, *_ in records[0]}) != len(records[0]):
        raise DataError("the responses hold no record, or one id twice; run `dvc repro`")


def answers_for(judge: Judge, answers: Answers, pair: Collection[str] = ()) -> Answers:
    """The systems that a judge is asked about: all, or the `pair` for one that compares two."""
    return {system: those for system, those in answers.items() if system in pair} if judge.pairs and pair else answers


def judge_all(judges: Mapping[str, Judge], answers: Answers, pair: Collection[str] = ()) -> list[Judgement]:
    """A judgement by every judge for every answer of every system, in order; judges of pairs see `pair` alone."""
    check_answers(answers)
    judgements = []
    for name, judge in judges.items():
        asked = answers_for(judge, answers, pair)
        verdicts = judge.judge(asked)
        for system, responses in asked.items():
            judgements += _judgements(name, system, responses, verdicts[system])
    return judgements


def judge_system(name: str, judge: Judge, system: str, responses: Sequence[Response]) -> list[Judgement]:
    """A judgement by one judge for every answer of one system alone."""
    return _judgements(name, system, responses, judge.judge({system: responses})[system])


def _judgements(judge: str, system: str, responses: Sequence[Response], verdicts: Sequence[Verdict]) -> list[Judgement]:
    judgements = []
    for response, verdict in zip(responses, verdicts, strict=True):
        numbers = {name: getattr(verdict, name) for name in ("score", "spread")}
        rounded = {name: None if value is None else round(value, DECIMALS) for name, value in numbers.items()}
        own = {"id": response.id, "judge": judge, "system": system, "kind": response.kind}
        judgements.append(Judgement(**{**vars(verdict), **rounded, **own}))
    return judgements


def scores_of(judgements: Sequence[Judgement], judge: str, system: str) -> Scores:
    """One judge's scores of one system."""
    return {j.id: j.score for j in judgements if j.judge == judge and j.system == system}


def check_unscored(judgements: Sequence[Judgement], max_unscored: float) -> None:
    """Raise JudgeError if more than the share `max_unscored` of a judge's verdicts has no score.

    The message shows the first replies. A verdict is one reply where answers are judged several times, and a pair's
    replies in both orders are one.
    """
    for name in dict.fromkeys(judgement.judge for judgement in judgements):
        own = [judgement for judgement in judgements if judgement.judge == name]
        total = sum(len(judgement.choices) // 2 or len(judgement.replies) or 1 for judgement in own)
        unscored = [judgement for judgement in own if judgement.failed or judgement.score is None]
        count = sum(max(1, judgement.failed) for judgement in unscored)
        if count / total > max_unscored:
            shown = "\n".join(f"  {j.system} {j.id}: {j.problem}: {printable(j.raw_reply[:80])}" for j in unscored[:5])
            raise JudgeError(
                f"{name}: {count} of {total} verdicts have no score, more than evaluate.max_unscored "
                f"{max_unscored:g} allows; the first ones:\n{shown}\nchange the judge or its settings"
            )

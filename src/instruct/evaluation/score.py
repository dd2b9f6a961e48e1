"""Verdicts on both systems, and what they add up to; nothing is dropped on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, quantiles
from typing import Any

from tqdm import tqdm

from instruct.errors import DataError, JudgeError
from instruct.evaluation.judges.base import Judge
from instruct.evaluation.reference import compare
from instruct.evaluation.settings import EvaluateParams
from instruct.records import Response
from instruct.statistics import mean_interval, paired_test

SYSTEMS = ("base", "tuned")
STOP_REASONS = ("end_of_text", "stop_string", "length", "repetition")
DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One verdict on one answer of one system, with the measures of likeness beside it (all 0-100)."""

    id: str
    system: str
    kind: str
    score: float | None
    problem: str
    raw_reply: str
    exact_match: float
    token_f1: float
    rouge_l: float
    chrf: float
    stop_reason: str


def judge_all(judge: Judge, answers: Mapping[str, Sequence[Response]]) -> list[Judgement]:
    """A judgement for every answer of every system, in order.

    Raises DataError where the systems did not answer the same records, each once.
    """
    records = [[(one.id, one.instruction, one.input, one.output) for one in system] for system in answers.values()]
    if any(system != records[0] for system in records):
        raise DataError("base and tuned answered different records; run `dvc repro` so that both are of one test set")
    if not records[0] or len({id_ for id_, *_ in records[0]}) != len(records[0]):
        raise DataError("the responses hold no record, or one id twice; run `dvc repro` so that each stands there once")
    judgements = []
    pairs = [(system, response) for system, responses in answers.items() for response in responses]
    for system, response in tqdm(pairs, unit="verdict", disable=None):
        verdict = judge.judge(response)
        likeness = compare(response.response, response.output)
        judgements.append(
            Judgement(
                id=response.id,
                system=system,
                kind=response.kind,
                score=None if verdict.score is None else round(verdict.score, DECIMALS),
                problem=verdict.problem,
                raw_reply=verdict.raw_reply,
                stop_reason=response.stop_reason,
                **{name: round(value, DECIMALS) for name, value in asdict(likeness).items()},
            )
        )
    return judgements


def check_unscored(judgements: Sequence[Judgement], max_unscored: float) -> None:
    """Raise JudgeError where more than the share `max_unscored` of verdicts has no score, with the first replies."""
    unscored = [judgement for judgement in judgements if judgement.score is None]
    if len(unscored) / len(judgements) > max_unscored:
        shown = "\n".join(f"  {j.system} {j.id}: {j.problem}: {j.raw_reply[:80]!r}" for j in unscored[:5])
        raise JudgeError(
            f"{len(unscored)} of {len(judgements)} verdicts have no score, more than evaluate.max_unscored "
            f"{max_unscored:g} allows; the first ones:\n{shown}\nchange the judge or its settings"
        )


def summarise(judgements: Sequence[Judgement], identity: Mapping[str, str], params: EvaluateParams) -> dict[str, Any]:
    """metrics/evaluate.json: every mean with its count and interval, base and tuned, and their paired difference.

    A number that does not exist is absent; a system without any score has only its counts.
    """
    metrics: dict[str, Any] = {"judge": dict(identity)}
    for system in SYSTEMS:
        metrics[system] = _system_metrics([j for j in judgements if j.system == system], params)
    scores = {system: {j.id: j.score for j in judgements if j.system == system} for system in SYSTEMS}
    both = [id_ for id_, score in scores["base"].items() if score is not None and scores["tuned"][id_] is not None]
    metrics["difference"] = {"count": len(both)}
    if both:
        base = [score for id_ in both if (score := scores["base"][id_]) is not None]
        tuned = [score for id_ in both if (score := scores["tuned"][id_]) is not None]
        paired = paired_test(base, tuned, resamples=params.resamples, seed=params.seed)
        metrics["difference"] |= {
            "mean": _round(paired.difference.mean),
            "low": _round(paired.difference.low),
            "high": _round(paired.difference.high),
            "p_value": round(paired.p_value, 6),
            "wins": paired.wins,
            "ties": paired.ties,
            "losses": paired.losses,
        }
    return metrics


def _system_metrics(judgements: Sequence[Judgement], params: EvaluateParams) -> dict[str, Any]:
    scores = [j.score for j in judgements if j.score is not None]
    values: dict[str, Any] = {"scored": len(scores), "unscored": len(judgements) - len(scores)}
    if scores:
        interval = mean_interval(scores, resamples=params.resamples, seed=params.seed)
        values |= {"mean": _round(interval.mean), "low": _round(interval.low), "high": _round(interval.high)}
        lower, middle, upper = quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else scores * 3
        values |= {"q1": _round(lower), "median": _round(middle), "q3": _round(upper)}
    for name in ("exact_match", "token_f1", "rouge_l", "chrf"):
        values[name] = _round(mean(getattr(j, name) for j in judgements))
    reasons = [j.stop_reason for j in judgements]
    values["stopped"] = {name: reasons.count(name) for name in (*STOP_REASONS, *sorted(set(reasons)))}
    return values


def _round(value: float) -> float:
    return round(value, DECIMALS) + 0.0  # which makes 0.0 of -0.0

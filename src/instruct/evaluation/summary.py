"""metrics/evaluate.json and metrics/scores.csv: what the verdicts add up to, with every denominator.

A number that does not exist is absent, never null and never 0.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from statistics import mean, quantiles
from typing import Any

from instruct.core.records import Response
from instruct.evaluation.agreement import Keyed, agree_all
from instruct.evaluation.controls import Fitness
from instruct.evaluation.human import NAME, count_scored
from instruct.evaluation.judges.base import Answers, Identity
from instruct.evaluation.reference import MEASURES, Likeness, compare, corpus_bleu, signatures
from instruct.evaluation.score import DECIMALS, SYSTEMS, Judgement, Scores, clusters_of, scores_of
from instruct.evaluation.settings import EvaluateParams
from instruct.evaluation.slices import extremes, slice_scores
from instruct.statistics import mean_interval, paired_test
from instruct.text.prompts import TEMPLATES, TemplateName

STOP_REASONS = ("end_of_text", "stop_string", "length", "repetition")
EXTREMES = 10  # answers of each kind
SHOWN = 200  # characters of an unread reply that stand in the metrics; all of it stands in the judgements


def summarise(
    judgements: Sequence[Judgement],
    judged_by: Mapping[str, tuple[Identity, Fitness]],
    answers: Answers,
    likeness: Mapping[str, Sequence[Likeness]],
    human: Mapping[str, Scores],
    template: TemplateName,
    params: EvaluateParams,
) -> dict[str, Any]:
    """All of metrics/evaluate.json. Lists in it (slices, answers) are for the page; DVC leaves them out."""
    scores = {name: {system: scores_of(judgements, name, system) for system in SYSTEMS} for name in judged_by}
    clusters = clusters_of(answers["base"])
    judges = {
        name: summarise_judge(judgements, name, identity, clusters, params)
        | {
            "controls": fitness.metrics(),
            "slices": slice_scores(answers, scores[name], params),
            "extremes": extremes(scores[name], EXTREMES),
        }
        for name, (identity, fitness) in judged_by.items()
    }
    people = {NAME: human} if count_scored(human) else {}
    agreement = agree_all({name: by_key(one) for name, one in {**scores, **people}.items()})
    return {
        "test": describe_test(answers["base"], template),
        "answers": summarise_answers(answers),
        "judges": judges,
        "reference": summarise_reference(answers, likeness),
    } | ({"agreement": agreement} if agreement else {})


def by_key(scores: Mapping[str, Scores]) -> Keyed:
    """Scores of both systems together."""
    return {(system, id_): score for system, one in scores.items() for id_, score in one.items()}


def describe_test(responses: Sequence[Response], template: TemplateName) -> dict[str, Any]:
    """Which test set was answered, by its content, and with which template."""
    digest = sha256()
    for one in responses:
        digest.update("\x1f".join((one.id, one.instruction, one.input, one.output, "\x1e")).encode())
    spelled = json.dumps(asdict(TEMPLATES[template]), sort_keys=True)
    return {
        "records": len(responses),
        "sha256": digest.hexdigest(),
        "template": template,
        "template_sha256": sha256(spelled.encode()).hexdigest(),
    }


def summarise_judge(
    judgements: Sequence[Judgement], judge: str, identity: Identity, clusters: Mapping[str, str], params: EvaluateParams
) -> dict[str, Any]:
    """One judge's part of the metrics: who it is, each system's mean, and their paired difference."""
    values: dict[str, Any] = {"identity": dict(identity.about)}
    if identity.rubric:
        values |= {"rubric": identity.rubric, "rubric_sha256": identity.rubric_sha256}
    own = [j for j in judgements if j.judge == judge]
    for system in SYSTEMS:
        values[system] = _system_metrics([j for j in own if j.system == system], clusters, params)
    values["difference"] = compare_systems(
        scores_of(own, judge, "base"), scores_of(own, judge, "tuned"), clusters, params
    )
    values["unscored"] = [
        {"id": j.id, "system": j.system, "problem": j.problem, "raw_reply": j.raw_reply[:SHOWN]}
        for j in own
        if j.score is None
    ]
    return values


def compare_systems(base: Scores, tuned: Scores, clusters: Mapping[str, str], params: EvaluateParams) -> dict[str, Any]:
    """Tuned minus base over the records that have a score for both, and what the others could make of it at most."""
    pairs = [(score, tuned[id_]) for id_, score in base.items()]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    groups = [clusters[id_] for id_, (a, b) in zip(base, pairs, strict=True) if a is not None and b is not None]
    values: dict[str, Any] = {"count": len(both)}
    if not both:
        return values
    low, high = ([(_or(b, one) - _or(a, other)) for a, b in pairs] for one, other in ((0.0, 100.0), (100.0, 0.0)))
    paired = paired_test(
        [a for a, _ in both], [b for _, b in both], resamples=params.resamples, seed=params.seed, groups=groups
    )
    return values | {
        "mean": rounded(paired.difference.mean),
        "low": rounded(paired.difference.low),
        "high": rounded(paired.difference.high),
        "p_value": round(paired.p_value, 6),
        "wins": paired.wins,
        "ties": paired.ties,
        "losses": paired.losses,
        "worst_case": rounded(mean(low)),
        "best_case": rounded(mean(high)),
    }


def summarise_answers(answers: Answers) -> dict[str, Any]:
    """How the answers ended and how long they are, by system."""
    values = {}
    for system, responses in answers.items():
        reasons = [one.stop_reason for one in responses]
        values[system] = {
            "mean_tokens": rounded(mean(one.response_tokens for one in responses)),
            "stopped": {name: reasons.count(name) for name in (*STOP_REASONS, *sorted(set(reasons)))},
        }
    return values


def measure_all(answers: Answers) -> dict[str, list[Likeness]]:
    """The likeness of every answer to its reference, by system."""
    return {system: [compare(one.response, one.output) for one in responses] for system, responses in answers.items()}


def summarise_reference(answers: Answers, likeness: Mapping[str, Sequence[Likeness]]) -> dict[str, Any]:
    """Means of the measures that need no judge, and corpus BLEU, with sacrebleu's signatures."""
    values: dict[str, Any] = {}
    for system, responses in answers.items():
        means = {name: rounded(mean(getattr(one, name) for one in likeness[system])) for name in MEASURES}
        texts, references = [one.response for one in responses], [one.output for one in responses]
        values[system] = means | {"bleu": rounded(corpus_bleu(texts, references))}
    return values | {"signatures": signatures()}


def score_columns(judges: Sequence[str]) -> list[str]:
    """The header of metrics/scores.csv."""
    return ["id", "kind", "group", *(f"{name}.{system}" for name in (*judges, *MEASURES) for system in SYSTEMS)]


def score_rows(
    answers: Answers, scores: Mapping[str, Mapping[str, Scores]], likeness: Mapping[str, Sequence[Likeness]]
) -> Iterator[dict[str, Any]]:
    """One row per test record; `scores` are by judge and system, and what has no score stays empty."""
    for place, record in enumerate(answers["base"]):
        row: dict[str, Any] = {"id": record.id, "kind": record.kind, "group": record.group}
        for judge, systems in scores.items():
            found = {f"{judge}.{system}": systems[system].get(record.id) for system in SYSTEMS}
            row |= {name: score for name, score in found.items() if score is not None}
        for system in SYSTEMS:
            values = asdict(likeness[system][place]) | {"similarity": likeness[system][place].similarity}
            row |= {f"{name}.{system}": rounded(value) for name, value in values.items()}
        yield row


def rounded(value: float) -> float:
    """A number as it stands in tracked files: four decimals, and 0.0 for -0.0."""
    return round(value, DECIMALS) + 0.0


def _system_metrics(
    judgements: Sequence[Judgement], clusters: Mapping[str, str], params: EvaluateParams
) -> dict[str, Any]:
    scores = [j.score for j in judgements if j.score is not None]
    values: dict[str, Any] = {"scored": len(scores), "unscored": len(judgements) - len(scores)}
    if not scores:
        return values
    groups = [clusters[j.id] for j in judgements if j.score is not None]
    interval = mean_interval(scores, resamples=params.resamples, seed=params.seed, groups=groups)
    lower, middle, upper = quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else scores * 3
    values |= {
        "mean": rounded(interval.mean),
        "low": rounded(interval.low),
        "high": rounded(interval.high),
        "worst_case": rounded(mean(_or(j.score, 0.0) for j in judgements)),
        "best_case": rounded(mean(_or(j.score, 100.0) for j in judgements)),
        "q1": rounded(lower),
        "median": rounded(middle),
        "q3": rounded(upper),
    }
    spreads = [j.spread for j in judgements if j.spread is not None]
    if spreads:
        flipped = sum(spread > 0 for spread in spreads) / len(spreads)
        values |= {"mean_spread": rounded(mean(spreads)), "flipped": rounded(flipped)}
    values |= _order_metrics(judgements)
    failed = sum(j.failed for j in judgements if j.score is not None)
    return values | ({"failed_repeats": failed} if failed else {})


def _order_metrics(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Of pairs judged in both orders: how many orders agreed, and how often the first place won."""
    orders = [pair for j in judgements for pair in zip(j.choices[::2], j.choices[1::2], strict=True)]
    read = [pair for pair in orders if "none" not in pair]
    if not read:
        return {}
    consistent = sum(pair in (("A", "B"), ("B", "A"), ("tie", "tie")) for pair in read)
    first = sum(choice == "A" for pair in read for choice in pair)
    return {"orders": len(read), "consistent": consistent, "first_place_won": rounded(first / (2 * len(read)))}


def _or(score: float | None, other: float) -> float:
    return other if score is None else score

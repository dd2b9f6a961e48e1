"""What the verdicts add up to, with every denominator, as the schema of the results wants it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from statistics import mean, quantiles

from instruct.core.records import Response
from instruct.evaluation.agreement import Keyed, agree_all
from instruct.evaluation.controls import Fitness
from instruct.evaluation.human import count_scored
from instruct.evaluation.judges.base import Answers, Identity
from instruct.evaluation.reference import Measured, compare, corpus_bleu, signatures
from instruct.evaluation.score import Judgement, clusters_of, scores_of
from instruct.evaluation.settings import EvaluateParams
from instruct.evaluation.slices import slice_scores
from instruct.results.lock import md5_of
from instruct.results.schema import (
    DECIMALS,
    REFERENCE_METRICS,
    STOP_REASONS,
    VERSION,
    JudgeResults,
    Results,
    System,
    TestSet,
    Unscored,
)
from instruct.results.scores import Difference, SystemScores
from instruct.results.table import HUMAN, Scores, Table
from instruct.statistics import mean_interval, paired_test
from instruct.text.prompts import DEFAULT, PromptParams, TemplateName

SHOWN = 500  # characters of an unread reply in the results; all of it is in the judgements
Measures = Mapping[str, Sequence[Measured]]
"""The measures of every answer by system."""


def summarise(
    judgements: Sequence[Judgement],
    judged_by: Mapping[str, tuple[Identity, Fitness]],
    answers: Answers,
    files: Mapping[str, Path],
    measured: Measures,
    human: Mapping[str, Scores],
    template: TemplateName,
    params: EvaluateParams,
    system: str = DEFAULT,
) -> Results:
    """The results of these systems, judged by these judges."""
    scores = {name: {system: scores_of(judgements, name, system) for system in answers} for name in judged_by}
    people = {HUMAN: human} if count_scored(human) else {}
    return Results(
        version=VERSION,
        test=describe_test(next(iter(answers.values())), template, system),
        systems=tuple(describe_system(name, files[name], answers[name], measured[name]) for name in answers),
        judges=tuple(
            summarise_judge([one for one in judgements if one.judge == name], *about, answers, scores[name], params)
            for name, about in judged_by.items()
        ),
        signatures=signatures(),
        agreement=agree_all({name: by_key(one) for name, one in {**scores, **people}.items()}),
    )


def by_key(scores: Mapping[str, Scores]) -> Keyed:
    """Scores of all systems together."""
    return {(system, id_): score for system, one in scores.items() for id_, score in one.items()}


def describe_test(responses: Sequence[Response], template: TemplateName, system: str = DEFAULT) -> TestSet:
    """Which test set was answered, by its content, and with which template."""
    digest = sha256()
    for one in responses:
        digest.update("\x1f".join((one.id, one.instruction, one.input, one.output, "\x1e")).encode())
    chosen = PromptParams(template=template, system=system).chosen
    # What a template leaves at its default is left out, so that a new field does not rename the old templates.
    texts = {one.name: text for one in fields(chosen) if (text := getattr(chosen, one.name)) != one.default}
    spelled = json.dumps(texts, sort_keys=True)
    return TestSet(
        records=len(responses),
        sha256=digest.hexdigest(),
        template=template,
        template_sha256=sha256(spelled.encode()).hexdigest(),
    )


def describe_system(name: str, file: Path, responses: Sequence[Response], measured: Sequence[Measured]) -> System:
    """Which answers a system gave, how they ended and how near they are to the references."""
    reasons = [one.stop_reason for one in responses]
    texts, references = [one.response for one in responses], [one.output for one in responses]
    means = {name: rounded(mean(rounded(getattr(one, name)) for one in measured)) for name in REFERENCE_METRICS}
    return System(
        name=name,
        answers=file.as_posix(),
        md5=md5_of(file.read_bytes()),
        mean_tokens=rounded(mean(one.response_tokens for one in responses)),
        stopped={reason: reasons.count(reason) for reason in (*STOP_REASONS, *sorted(set(reasons)))},
        measures=means | {"bleu": rounded(corpus_bleu(texts, references))},
    )


def summarise_judge(
    judgements: Sequence[Judgement],
    identity: Identity,
    fitness: Fitness,
    answers: Answers,
    scores: Mapping[str, Scores],
    params: EvaluateParams,
) -> JudgeResults:
    """One judge's results from its judgements: who it is, each system's mean, and paired differences."""
    first, *others = answers
    clusters = clusters_of(answers[first])
    return JudgeResults(
        name=judgements[0].judge,
        identity=dict(identity.about),
        rubric=identity.rubric,
        rubric_sha256=identity.rubric_sha256,
        controls=fitness.controls,
        systems=tuple(
            summarise_system(name, [one for one in judgements if one.system == name], clusters, params)
            for name in answers
        ),
        differences=tuple(compare_systems(first, other, scores, clusters, params) for other in others),
        slices=slice_scores(answers, scores, params),
        unscored=tuple(
            Unscored(id=one.id, system=one.system, problem=one.problem, raw_reply=one.raw_reply[:SHOWN])
            for one in judgements
            if one.score is None
        ),
    )


def compare_systems(
    against: str, system: str, scores: Mapping[str, Scores], clusters: Mapping[str, str], params: EvaluateParams
) -> Difference:
    """One system minus another over the records that have both scores, and what the others could make of it at most."""
    pairs = [(score, scores[system][id_]) for id_, score in scores[against].items()]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both:
        return Difference(system=system, against=against, count=0)
    known = zip(scores[against], pairs, strict=True)
    groups = [clusters[id_] for id_, (a, b) in known if a is not None and b is not None]
    low, high = ([(_or(b, one) - _or(a, other)) for a, b in pairs] for one, other in ((0.0, 100.0), (100.0, 0.0)))
    paired = paired_test(
        [a for a, _ in both], [b for _, b in both], resamples=params.resamples, seed=params.seed, groups=groups
    )
    return Difference(
        system=system,
        against=against,
        count=len(both),
        mean=rounded(paired.difference.mean),
        low=rounded(paired.difference.low),
        high=rounded(paired.difference.high),
        p_value=round(paired.p_value, 6),
        wins=paired.wins,
        ties=paired.ties,
        losses=paired.losses,
        worst_case=rounded(mean(low)),
        best_case=rounded(mean(high)),
    )


def measure_all(answers: Answers) -> dict[str, list[Measured]]:
    """The similarity of every answer to its reference, by system."""
    return {system: [compare(one.response, one.output) for one in responses] for system, responses in answers.items()}


def make_table(
    results: Results,
    answers: Answers,
    judgements: Sequence[Judgement],
    human: Mapping[str, Scores],
    measured: Measures,
) -> Table:
    """Every score of every record: of the judges, of people if any gave one, and the measures."""
    records = answers[results.against]
    scores = {
        judge.name: {system: scores_of(judgements, judge.name, system) for system in answers}
        for judge in results.judges
    }
    if count_scored(human):
        scores[HUMAN] = dict(human)
    for measure in REFERENCE_METRICS:
        scores[measure] = {
            system: {
                record.id: rounded(getattr(one, measure)) for record, one in zip(records, measured[system], strict=True)
            }
            for system in answers
        }
    kinds, groups = {one.id: one.kind for one in records}, {one.id: one.group for one in records}
    return Table(kinds=kinds, groups=groups, scores=scores)


def rounded(value: float) -> float:
    """A number as tracked files hold it: four decimals, and 0.0 for -0.0."""
    return round(value, DECIMALS) + 0.0


def summarise_system(
    system: str, judgements: Sequence[Judgement], clusters: Mapping[str, str], params: EvaluateParams
) -> SystemScores:
    """One judge's scores of one system."""
    scores = [one.score for one in judgements if one.score is not None]
    unscored = len(judgements) - len(scores)
    if not scores:
        return SystemScores(system=system, scored=0, unscored=unscored)
    groups = [clusters[one.id] for one in judgements if one.score is not None]
    interval = mean_interval(scores, resamples=params.resamples, seed=params.seed, groups=groups)
    lower, middle, upper = quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else scores * 3
    spreads = [one.spread for one in judgements if one.spread is not None]
    orders, consistent, first = _order_metrics(judgements)
    return SystemScores(
        system=system,
        scored=len(scores),
        unscored=unscored,
        mean=rounded(interval.mean),
        low=rounded(interval.low),
        high=rounded(interval.high),
        worst_case=rounded(mean(_or(one.score, 0.0) for one in judgements)),
        best_case=rounded(mean(_or(one.score, 100.0) for one in judgements)),
        q1=rounded(lower),
        median=rounded(middle),
        q3=rounded(upper),
        mean_spread=rounded(mean(spreads)) if spreads else None,
        flipped=rounded(sum(spread > 0 for spread in spreads) / len(spreads)) if spreads else None,
        failed_repeats=sum(one.failed for one in judgements if one.score is not None) or None,
        orders=orders,
        consistent=consistent,
        first_place_won=first,
    )


def _order_metrics(judgements: Sequence[Judgement]) -> tuple[int, int, float] | tuple[None, None, None]:
    """Of pairs judged in both orders: how many were read, in how many both agreed, how often the first place won."""
    orders = [pair for j in judgements for pair in zip(j.choices[::2], j.choices[1::2], strict=True)]
    read = [pair for pair in orders if "none" not in pair]
    if not read:
        return None, None, None
    consistent = sum(pair in (("A", "B"), ("B", "A"), ("tie", "tie")) for pair in read)
    first = sum(choice == "A" for pair in read for choice in pair)
    return len(read), consistent, rounded(first / (2 * len(read)))


def _or(score: float | None, other: float) -> float:
    return other if score is None else score

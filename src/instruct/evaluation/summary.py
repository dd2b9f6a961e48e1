"""What the verdicts add up to, with every denominator, as the schema of the results wants it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from statistics import mean

from instruct.checks.schema import Check
from instruct.checks.signature import accuracy_signature
from instruct.core.records import Response
from instruct.evaluation.agreement import Keyed, agree_all
from instruct.evaluation.controls import Fitness
from instruct.evaluation.human import count_scored
from instruct.evaluation.judges.base import Answers, Identity
from instruct.evaluation.means import clusters_of, compare_systems, describe_scores, mean_of, rounded
from instruct.evaluation.measured import AllScores, choose_pair, summarise_measured
from instruct.evaluation.reference import corpus_bleu, signatures
from instruct.evaluation.score import Judgement, scores_of
from instruct.evaluation.settings import EvaluateParams
from instruct.evaluation.slices import slice_scores
from instruct.evaluation.systems import Systems
from instruct.results.lock import md5_of
from instruct.results.schema import (
    ACCURACY,
    STOP_REASONS,
    VERSION,
    JudgeResults,
    Results,
    System,
    TestSet,
    Unscored,
    shown_systems,
)
from instruct.results.scores import SystemScores
from instruct.results.table import HUMAN, Scores, Table
from instruct.text.prompts import DEFAULT, PromptParams, TemplateName

SHOWN = 500  # characters of an unread reply in the results; all of it is in the judgements


def summarise(
    judgements: Sequence[Judgement],
    judged_by: Mapping[str, tuple[Identity, Fitness]],
    answers: Answers,
    systems: Systems,
    measured: AllScores,
    checks: Mapping[str, Check],
    human: Mapping[str, Scores],
    prompt: PromptParams,
    params: EvaluateParams,
) -> Results:
    """The results of these systems, judged by these judges."""
    against, _ = choose_pair(measured, systems)
    scores = judge_scores(judgements, list(judged_by))
    people = {HUMAN: human} if count_scored(human) else {}
    return Results(
        version=VERSION,
        test=describe_test(next(iter(answers.values())), prompt.template, prompt.system),
        systems=tuple(describe_system(name, systems.files[name], answers[name], measured) for name in answers),
        judges=tuple(
            summarise_judge(
                [one for one in judgements if one.judge == name],
                *about,
                answers,
                scores[name],
                systems,
                against,
                params,
            )
            for name, about in judged_by.items()
        ),
        signatures=signatures() | _signature_of(measured, checks),
        agreement=agree_all(
            {name: by_key(one) for name, one in {**scores, **people}.items()},
            of_pairs={one.judge for one in judgements if one.choices},
        ),
        baselines=systems.baselines,
        best_baseline=against,
        measured=summarise_measured(measured, answers, systems, against, params),
    )


def judge_scores(judgements: Sequence[Judgement], judges: Sequence[str]) -> AllScores:
    """Every judge's scores of the systems that it judged."""
    judged = {name: dict.fromkeys(one.system for one in judgements if one.judge == name) for name in judges}
    return {name: {system: scores_of(judgements, name, system) for system in judged[name]} for name in judges}


def _signature_of(measured: AllScores, checks: Mapping[str, Check]) -> dict[str, str]:
    closed = next(iter(measured.get(ACCURACY, {}).values()), {})
    return {ACCURACY: accuracy_signature({id_: checks[id_] for id_ in closed})} if closed else {}


def by_key(scores: Mapping[str, Scores]) -> Keyed:
    """Scores of all systems together."""
    return {(system, id_): score for system, one in scores.items() for id_, score in one.items()}


def describe_test(responses: Sequence[Response], template: TemplateName, system: str = DEFAULT) -> TestSet:
    """Which test set was answered, by its content in whatever order and ends of lines, and with which template."""
    digest = sha256()
    for one in sorted(responses, key=lambda one: one.id):
        said = [text for turn in one.turns for text in turn]
        text = "\x1f".join((one.id, *filter(None, [one.system]), *said, "\x1e"))
        digest.update(text.replace("\r\n", "\n").encode())
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


def describe_system(name: str, file: Path, responses: Sequence[Response], measured: AllScores) -> System:
    """Which answers a system gave, how they ended and how near they are to the references."""
    reasons = [one.stop_reason for one in responses]
    texts, references = [one.response for one in responses], [one.output for one in responses]
    means = {measure: rounded(mean_of(scores[name])) for measure, scores in measured.items()}
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
    systems: Systems,
    against: str,
    params: EvaluateParams,
) -> JudgeResults:
    """One judge's results from its judgements: who it is, each system's mean, and paired differences."""
    clusters = clusters_of(answers[against])
    first = against if against in scores else next(iter(scores))  # a judge of pairs may know two trained systems alone
    shown = [name for name in shown_systems(list(answers), systems.baselines, against) if name in scores]
    return JudgeResults(
        name=judgements[0].judge,
        identity=dict(identity.about),
        rubric=identity.rubric,
        rubric_sha256=identity.rubric_sha256,
        controls=fitness.controls,
        systems=tuple(
            summarise_system(name, [one for one in judgements if one.system == name], clusters, params)
            for name in scores
        ),
        differences=tuple(
            compare_systems(first, other, scores, clusters, params) for other in scores if other != first
        ),
        over_previous=tuple(
            compare_systems(one, other, scores, clusters, params)
            for one, other in pairwise(systems.trained if first == against else ())
        )
        or None,
        slices=slice_scores(answers, {name: scores[name] for name in shown}, params, against=first),
        unscored=tuple(
            Unscored(id=one.id, system=one.system, problem=one.problem, raw_reply=one.raw_reply[:SHOWN])
            for one in judgements
            if one.score is None
        ),
    )


def make_table(
    answers: Answers, judged: Mapping[str, Mapping[str, Scores]], human: Mapping[str, Scores], measured: AllScores
) -> Table:
    """Every score of every record: of the judges, of people if any gave one, and the measures."""
    records = next(iter(answers.values()))
    found = {**judged, **({HUMAN: human} if count_scored(human) else {}), **measured}
    return Table(
        kinds={one.id: one.kind for one in records},
        groups={one.id: one.group for one in records},
        scores={name: {system: dict(scores.get(system, {})) for system in answers} for name, scores in found.items()},
    )


def summarise_system(
    system: str, judgements: Sequence[Judgement], clusters: Mapping[str, str], params: EvaluateParams
) -> SystemScores:
    """One judge's scores of one system."""
    scores = {one.id: one.score for one in judgements}
    found = describe_scores(system, scores, clusters, params)
    if not found.scored:
        return found
    spreads = [one.spread for one in judgements if one.spread is not None]
    orders, consistent, first = _order_metrics(judgements)
    return replace(
        found,
        mean_spread=rounded(mean(spreads)) if spreads else None,
        flipped=rounded(sum(spread > 0 for spread in spreads) / len(spreads)) if spreads else None,
        failed_repeats=sum(one.failed for one in judgements if one.score is not None) or None,
        orders=orders,
        consistent=consistent,
        first_place_won=first,
    )


def _order_metrics(judgements: Sequence[Judgement]) -> tuple[int | None, int | None, float | None]:
    """Of pairs judged in both orders: how many were read, and in how many both agreed.

    Last, the share of their verdicts with a winner that the first place won: 0.5 without a preference for a place.
    """
    orders = [pair for j in judgements for pair in zip(j.choices[::2], j.choices[1::2], strict=True)]
    read = [pair for pair in orders if "none" not in pair]
    if not read:
        return None, None, None
    consistent = sum(pair in (("A", "B"), ("B", "A"), ("tie", "tie")) for pair in read)
    decided = [choice for pair in read for choice in pair if choice != "tie"]
    return len(read), consistent, rounded(decided.count("A") / len(decided)) if decided else None

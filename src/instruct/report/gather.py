"""A run and its answers as the values that the page's sections show; nothing is computed in a template."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from instruct.core.errors import DataError
from instruct.core.records import read_responses
from instruct.report.charts import Draw, chart, draw_accuracy, draw_learning_rate, draw_loss, draw_rewards, draw_scores
from instruct.report.failure_modes import failure_modes
from instruct.report.pairs import (
    BANDS,
    Compared,
    count_bands,
    count_endings,
    form_without_truth,
    most_changed,
    pair_answers,
    worst,
)
from instruct.report.preferring import Preferring, preferring_of
from instruct.report.stop_or_go import stop_or_go
from instruct.report.tables import (
    Table,
    agreement_table,
    failure_table,
    finding_table,
    length_table,
    measure_table,
    score_table,
    signal_table,
    slice_table,
    system_table,
    unscored_table,
)
from instruct.results.headline import headline_lines, judge_verdicts, score_title, system_title
from instruct.results.revisions import WORKSPACE
from instruct.results.runs import MEASURED, PREFERRED, QUALITY, Run, load_run
from instruct.results.schema import ACCURACY, Results
from instruct.results.scores import ScoreResults, Slice

LISTED = 100  # rows of a list of exceptions; the rest is counted


def read_finished(root: Path) -> Run:
    """The run in a folder, from what `plot` depends on alone; raises DataError where one of its files is missing."""
    files = {path: (root / path).read_bytes() for path in MEASURED if (root / path).is_file()}
    if missing := [path for path in MEASURED if path not in files and path not in (QUALITY, *PREFERRED)]:
        raise DataError(f"{missing[0]}: there is no such file; check the path, or run `dvc repro`")
    return load_run(WORKSPACE, files)


def read_pairs(run: Run, root: Path) -> list[Compared]:
    """The shown systems' answers in the folder side by side, with the main judge's scores."""
    results = run.results
    answers = {name: read_responses(root / results.system(name).answers) for name in results.shown}
    return pair_answers(answers, run.table, results.main_judge.name, results.main_judge.against)


def page_values(run: Run, pairs: Sequence[Compared], examples: int) -> dict[str, Any]:
    """What the templates in `sections` name, all of it."""
    results, judge = run.results, run.results.main_judge
    answers = {system: [pair.answers[system] for pair in pairs] for system in results.shown}
    unscored = [(one.name, row) for one in results.judges for row in one.unscored]
    preferring = preferring_of(run)
    signals, failures = stop_or_go(run, judge), failure_modes(answers, run.train, run.quality, results.judges)
    return {
        "split": run.split,
        "train": run.train,
        "results": results,
        "against": judge.against,
        "primary": results.primary,
        "judge": judge.name,
        "leak": run.leak,
        "headline": list(headline_lines(results, run.table)),
        "similar_but_wrong": form_without_truth(pairs, examples) if ACCURACY in results.measures else None,
        "verdicts": judge_verdicts(results, run.table),
        "figures": draw_charts(run, pairs) | draw_rewards_of(preferring),
        "preferring": preferring,
        "worst": worst(pairs, examples),
        "improved": most_changed(pairs, examples, better=True),
        "regressed": most_changed(pairs, examples, better=False),
        "endings": {system: count_endings(responses) for system, responses in answers.items()},
        "truncated": {system: sum(one.truncated_tokens > 0 for one in own) for system, own in answers.items()},
        "unscored": bool(unscored),
        "unscored_more": max(0, len(unscored) - LISTED),
        "quality": run.quality,
        "signals": signals,
        "about": "",
        "failures": failures,
        "tables": {
            "systems": system_table(results),
            "scores": {one.name: score_table(one, name_score(one.identity), results.shown) for one in results.judges},
            "measures": measure_table(results),
            "slices": {score_title(one.name): _slice_tables(one.slices) for one in _sliced(results)},
            "agreement": agreement_table(results.agreement),
            "unscored": unscored_table(unscored[:LISTED]),
            "next": signal_table(signals),
            "failures": failure_table(failures),
            "findings": finding_table(run.quality) if run.quality else None,
            "lengths": length_table(run.quality["tokens"]) if run.quality else None,
        },
    }


def name_score(identity: Mapping[str, str]) -> str:
    """What a judge's score is: similarity to the reference, or the opinion of a named model."""
    if "score" in identity:
        return identity["score"]
    kind = identity.get("judge") or identity.get("server") or "a judge that left no name"
    return f"judged by {identity['model']} through {kind}" if "model" in identity else f"judged by {kind}"


def draw_charts(run: Run, pairs: Sequence[Compared]) -> dict[str, Markup]:
    """The charts of one run by name; that of the learning rate only if the curve of training has it."""
    score_name = name_score(run.results.main_judge.identity)
    counts = {system_title(system): heights for system, heights in count_bands(pairs).items()}
    draws: dict[str, Draw] = {
        "loss": lambda axes: draw_loss(axes, run.curves["train"], run.curves["val"]),
        "scores": lambda axes: draw_scores(axes, BANDS, counts, score_name),
    }
    if "lr" in run.curves["train"][0]:
        draws["learning_rate"] = lambda axes: draw_learning_rate(axes, run.curves["train"])
    return {name: chart(name, draw) for name, draw in draws.items()}


def draw_rewards_of(found: Preferring | None) -> dict[str, Markup]:
    """The charts of preference tuning by name; none where a run has no curve of it."""
    if found is None or not found.curve:
        return {}
    return {
        "rewards": chart("rewards", lambda axes: draw_rewards(axes, found.curve)),
        "accuracy": chart("accuracy", lambda axes: draw_accuracy(axes, found.curve, found.rules)),
    }


def _sliced(results: Results) -> Iterator[ScoreResults]:
    """The scores whose slices are shown: right answers where there are any, and every judge's."""
    yield from (one for one in results.measured if one.name == ACCURACY)
    yield from results.judges


def _slice_tables(slices: Sequence[Slice]) -> dict[str, Table]:
    names = dict.fromkeys(one.property for one in slices)
    return {name: slice_table(name, [one for one in slices if one.property == name]) for name in names}

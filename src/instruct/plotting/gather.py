"""What a run left in its folders, as the values that the page's sections show; what is missing is None."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruct.core.errors import DataError
from instruct.core.files import read_csv, read_json
from instruct.core.records import Response, read_responses
from instruct.plotting.answers import Compared, count_bands, count_endings, most_changed, pair_answers, worst
from instruct.plotting.failure_modes import failure_modes
from instruct.plotting.results import MEASURES, by_judge, main_judge, scores_of, unscored_of
from instruct.plotting.stop_or_go import stop_or_go
from instruct.plotting.verdict import describe_difference, name_score

LISTED = 100  # rows of a list of exceptions; the rest is counted


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run as read from its files."""

    split: dict[str, Any]
    train: dict[str, Any]
    results: dict[str, Any]
    judge: str
    curves: dict[str, list[dict[str, str]]]
    pairs: list[Compared]
    judgements: list[dict[str, Any]]
    quality: dict[str, Any] | None


def read_run(metrics: Path, data: Path) -> Run:
    """Read metrics and answers; raises DataError where a file of the stages split to evaluate is missing."""
    results = by_judge(read_json(metrics / "evaluate.json"))
    judge = main_judge(results)
    judgements = _rows_of(read_json(data / "judgements.json"), data / "judgements.json")
    scores_file = metrics / "scores.csv"
    scores = scores_of(judge, read_csv(scores_file) if scores_file.is_file() else [], judgements)
    base, tuned = read_responses(data / "base_responses.json"), read_responses(data / "responses.json")
    quality = metrics / "data.json"
    return Run(
        split=read_json(metrics / "split.json"),
        train=read_json(metrics / "train.json"),
        results=results,
        judge=judge,
        curves={name: read_csv(metrics / "curves" / f"{name}.csv") for name in ("train", "val")},
        pairs=pair_answers(base, tuned, scores),
        judgements=judgements,
        quality=read_json(quality) if quality.is_file() else None,
    )


def page_values(run: Run, examples: int) -> dict[str, Any]:
    """What the templates in `sections` name, all of it, so that none of them computes."""
    unscored = unscored_of(run.judgements, run.judge)
    systems = {"base": [pair.base for pair in run.pairs], "tuned": [pair.tuned for pair in run.pairs]}
    return {
        "split": run.split,
        "train": run.train,
        "results": run.results,
        "judge": run.judge,
        "score_names": {name: name_score(one.get("identity", {})) for name, one in run.results["judges"].items()},
        "measures": MEASURES,
        "verdicts": {name: describe_difference(one["difference"]) for name, one in run.results["judges"].items()},
        "bands": count_bands(run.pairs),
        "worst": worst(run.pairs, examples),
        "improved": most_changed(run.pairs, examples, better=True),
        "regressed": most_changed(run.pairs, examples, better=False),
        "endings": {name: count_endings(answers) for name, answers in systems.items()},
        "truncated": {name: _count_truncated(answers) for name, answers in systems.items()},
        "unscored": unscored[:LISTED],
        "unscored_more": max(0, len(unscored) - LISTED),
        "quality": run.quality,
        "signals": stop_or_go(run.train, run.curves["val"], run.results["judges"][run.judge]),
        "failures": failure_modes(systems, run.train, run.quality, run.results["judges"]),
    }


def _count_truncated(answers: Sequence[Response]) -> int:
    return sum(one.truncated_tokens > 0 for one in answers)


def _rows_of(value: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(value, list) and all(
        isinstance(row, dict) and {"id", "system", "score"} <= set(row) for row in value
    ):
        return value
    raise DataError(f"{path}: is no file of judgements; run `dvc repro evaluate`")

"""What metrics/evaluate.json and metrics/scores.csv say, by judge."""

from collections.abc import Mapping, Sequence
from typing import Any

from instruct.core.errors import DataError

SYSTEMS = ("base", "tuned")
MEASURES = {"exact_match": "exact match", "token_f1": "token F1", "rouge_l": "ROUGE-L", "chrf": "chrF", "bleu": "BLEU"}


def by_judge(evaluate: Mapping[str, Any]) -> dict[str, Any]:
    """Results with `test`, `judges` and `reference`, also of a run that knew one judge only and named it at the top.

    Raises DataError for what is neither; experiments of older commits stay readable through it.
    """
    if isinstance(evaluate.get("judges"), Mapping) and evaluate["judges"]:
        return {"test": {}, "reference": {}, **evaluate}
    try:
        judge = dict(evaluate["judge"])
        one = {"identity": judge, "difference": evaluate["difference"], **{name: evaluate[name] for name in SYSTEMS}}
        measured = {name: {key: evaluate[name][key] for key in MEASURES if key in evaluate[name]} for name in SYSTEMS}
        records = evaluate["tuned"]["scored"] + evaluate["tuned"]["unscored"]
        return {"test": {"records": records}, "judges": {judge["judge"]: one}, "reference": measured}
    except (KeyError, TypeError, ValueError):
        raise DataError("metrics/evaluate.json: is no result of the stage evaluate; run `dvc repro evaluate`") from None


def main_judge(results: Mapping[str, Any]) -> str:
    """The judge whose scores order the answers: `reference` where it judged, else the first by name."""
    return "reference" if "reference" in results["judges"] else min(results["judges"])


def score_names(judge: str) -> tuple[str, ...]:
    """The names under which a judge's score may stand: what `reference` scores is the measure `similarity`."""
    return (judge, "similarity") if judge == "reference" else (judge,)


def score_columns(columns: Sequence[str], judge: str) -> tuple[str, str] | None:
    """The columns of metrics/scores.csv that hold a judge's scores of base and tuned."""
    for stem in score_names(judge):
        if f"{stem}.base" in columns and f"{stem}.tuned" in columns:
            return f"{stem}.base", f"{stem}.tuned"
    return None


def scores_of(
    judge: str, rows: Sequence[Mapping[str, str]], judgements: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], float | None]:
    """A judge's score by (system, id): from the rows of scores.csv, or from the judgements of an older run."""
    columns = score_columns(list(rows[0]), judge) if rows else None
    if columns:
        return {
            (system, row["id"]): float(row[column]) if row[column] else None
            for row in rows
            for system, column in zip(SYSTEMS, columns, strict=True)
        }
    return {(row["system"], row["id"]): row["score"] for row in judgements if row.get("judge", judge) == judge}


def unscored_of(judgements: Sequence[Mapping[str, Any]], judge: str) -> list[dict[str, str]]:
    """What has no score: record, system, judge, the raw reply and the cause."""
    return [
        {
            "id": row["id"],
            "system": row["system"],
            "judge": row.get("judge", judge),
            "cause": row.get("problem") or "no cause was recorded",
            "reply": row.get("raw_reply") or "",
        }
        for row in judgements
        if row["score"] is None
    ]

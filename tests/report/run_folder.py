"""What the other stages leave for `plot`, written by hand into a folder."""

import math
from pathlib import Path
from statistics import mean, quantiles

from instruct.core.files import write_csv, write_json
from instruct.core.records import Response, write_records

PARAMS = """
model: {backbone: smollm2-135m}
plot: {examples: 3}
prompt: {template: alpaca}
"""
OLLAMA = {"judge": "ollama", "model": "llama3:8b", "digest": "365c0bd3", "num_ctx": "4096"}
REFERENCE = {"judge": "reference", "score": "similarity to the reference answer"}
SYSTEMS = ("base", "tuned")


def make_run(
    folder: Path,
    base: list[float | None],
    tuned: list[float | None],
    *,
    identity=REFERENCE,
    judge_extra=None,
    extra=None,
    **fields,
) -> None:
    """One record per pair of scores; `fields` go into every record, the extras into metrics/evaluate.json."""
    (folder / "params.yaml").write_text(PARAMS)
    scores = {"base": base, "tuned": tuned}
    answers = {system: [answer_of(system, i, fields) for i in range(len(base))] for system in SYSTEMS}
    judge = identity["judge"]
    judged = [
        {
            "id": f"r{i}", "system": system, "judge": judge, "kind": "facts", "score": score,
            "problem": "" if score is not None else "no number", "raw_reply": "" if score is not None else f"reply {i}",
        }
        for system in SYSTEMS for i, score in enumerate(scores[system])
    ]  # fmt: skip
    write_json(folder / "data/judgements.json", judged)
    write_records(folder / "data/base_responses.json", answers["base"])
    write_records(folder / "data/responses.json", answers["tuned"])
    one = {
        "identity": identity,
        "difference": difference(base, tuned),
        **{name: part(scores[name]) for name in SYSTEMS},
    }
    one |= judge_extra or {}
    measured = {system: {"exact_match": 1.0, "token_f1": 2.0, "rouge_l": 3.0, "chrf": 4.0} for system in SYSTEMS}
    test = {"records": len(base), "sha256": "0" * 64, "template": "alpaca", "template_sha256": "1" * 64}
    results = {"test": test, "judges": {judge: one}, "reference": measured, **(extra or {})}
    write_json(folder / "metrics/evaluate.json", results)
    columns = ["id", "kind", "group", f"{judge}.base", f"{judge}.tuned", "similarity.base", "similarity.tuned"]
    pairs = enumerate(zip(base, tuned, strict=True))
    rows = [
        {"id": f"r{i}", "kind": "facts", **dict(zip(columns[3:], (a, b, a, b), strict=True))} for i, (a, b) in pairs
    ]
    write_csv(folder / "metrics/scores.csv", columns, rows)
    write_json(folder / "metrics/split.json", {"train": 12, "val": 3, "test": len(base), "read": 18, "kept": 18})
    losses = {"initial_val_loss": 3.25, "best_val_loss": 1.5, "last_val_loss": 1.75}
    write_json(folder / "metrics/train.json", {"steps": 6, "best_step": 4, **losses})
    write_curves(folder / "metrics/curves")


def answer_of(system: str, i: int, fields: dict) -> Response:
    values = {
        "id": f"r{i}", "instruction": f"What is the capital of r{i}?", "input": "", "kind": "facts",
        "stop_reason": "end_of_text", "prompt_tokens": 20, "response_tokens": 3,
        "response": f"{system} answer {i}", "output": f"right {i}",
    }  # fmt: skip
    return Response(**{**values, **fields})


def part(scores: list[float | None]) -> dict:
    """One system's part of the metrics, by the contract: what does not exist is absent."""
    known = [score for score in scores if score is not None]
    values: dict = {"scored": len(known), "unscored": len(scores) - len(known)}
    if known:
        q1, median, q3 = quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
        values |= {"mean": mean(known), "low": mean(known) - 9, "high": mean(known) + 9}
        values |= {"worst_case": sum(known) / len(scores), "q1": q1, "median": median, "q3": q3}
        values["best_case"] = values["worst_case"] + 100 * values["unscored"] / len(scores)
    return values


def difference(base: list[float | None], tuned: list[float | None]) -> dict:
    changes = [b - a for a, b in zip(base, tuned, strict=True) if a is not None and b is not None]
    if not changes:
        return {"count": 0}
    counts = {"wins": sum(c > 0 for c in changes), "ties": changes.count(0), "losses": sum(c < 0 for c in changes)}
    clear = len(changes) > 6 and (min(changes) > 0 or max(changes) < 0)
    about = {"low": mean(changes) - 9, "high": mean(changes) + 9, "p_value": 0.001 if clear else 0.5}
    numbers = {"mean": mean(changes), **about}
    return {"count": len(changes), **numbers, **counts}


def write_curves(folder: Path, steps: int = 6) -> None:
    train = [
        {
            "step": i,
            "epoch": i / steps,
            "tokens": 100 * i,
            "lr": 1e-4 / i,
            "loss": 3 * math.exp(-i / 9),
            "grad_norm": 1.0,
        }
        for i in range(1, steps + 1)
    ]
    val = [{"step": i, "epoch": i / steps, "tokens": 100 * i, "loss": 3.2 - i / 5} for i in range(0, steps + 1, 2)]
    write_csv(folder / "train.csv", list(train[0]), train)
    write_csv(folder / "val.csv", list(val[0]), val)

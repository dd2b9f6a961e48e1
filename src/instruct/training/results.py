"""What training leaves for people and for DVC: metrics/train.json and the curves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from instruct.files import write_csv, write_json
from instruct.training.encode import EncodedExample, count_tokens
from instruct.training.loop import History, TrainPoint, ValPoint

DIGITS = 6


def write_results(
    metrics: Path, curves: Path, history: History, fitted: Mapping[str, tuple[Sequence[EncodedExample], int, int]]
) -> None:
    """Write the metrics, and one CSV each for the training and the validation curve.

    `fitted` holds for train and val the examples in use, how many were truncated, how many dropped.
    """
    values: dict[str, Any] = {
        "steps": len(history.train),
        "initial_val_loss": round(history.val[0].loss, DIGITS),
        "best_val_loss": round(history.best.loss, DIGITS),
        "best_step": history.best.step,
        "last_val_loss": round(history.val[-1].loss, DIGITS),
        "first_train_loss": round(history.train[0].loss, DIGITS),
        "last_train_loss": round(history.train[-1].loss, DIGITS),
        "stopped_early": int(history.stopped_early),
    }
    for part, (examples, truncated, dropped) in fitted.items():
        tokens, response_tokens = count_tokens(examples)
        values[part] = {
            "records": len(examples),
            "truncated": truncated,
            "dropped": dropped,
            "tokens": tokens,
            "response_tokens": response_tokens,
        }
    write_json(metrics, values)
    _write_curve(curves / "train.csv", TrainPoint, history.train)
    _write_curve(curves / "val.csv", ValPoint, history.val)


def _write_curve(path: Path, kind: type[TrainPoint] | type[ValPoint], points: Sequence[TrainPoint | ValPoint]) -> None:
    rows = [
        {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in asdict(p).items()}
        for p in points
    ]
    write_csv(path, [field.name for field in fields(kind)], rows)

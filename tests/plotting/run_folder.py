"""What the other stages leave for `plot`, written by hand into a folder."""

import math
from pathlib import Path

from evaluation.answers import answer, evaluate_params

from instruct.evaluation.judges.base import Verdict
from instruct.evaluation.score import judge_all, summarise
from instruct.files import write_csv, write_json
from instruct.records import Response, write_records

PARAMS = """
model: {backbone: smollm2-135m}
plot: {examples: 3}
prompt: {template: alpaca}
"""
OLLAMA = {"judge": "ollama", "model": "llama3:8b", "digest": "365c0bd3", "num_ctx": "4096"}
REFERENCE = {"judge": "reference", "score": "similarity to the reference answer"}


class ListedScores:
    """A judge that gives the scores of a list."""

    def __init__(self, scores, identity):
        self.identity = dict(identity)
        self._scores = iter(scores)

    def judge(self, response):
        score = next(self._scores)
        return Verdict(score=score, raw_reply="?" if score is None else str(score))


def make_run(
    folder: Path, base: list[float | None], tuned: list[float | None], *, identity=REFERENCE, **fields
) -> None:
    """One record per pair of scores; `fields` go into every record."""
    (folder / "params.yaml").write_text(PARAMS)

    def answer_of(system: str, i: int) -> Response:
        return answer(f"r{i}", **{"response": f"{system} answer {i}", "output": f"right {i}", **fields})

    answers = {system: [answer_of(system, i) for i in range(len(base))] for system in ("base", "tuned")}
    judge = ListedScores([*base, *tuned], identity)
    judgements = judge_all(judge, answers)
    write_records(folder / "data/judgements.json", judgements)
    write_records(folder / "data/base_responses.json", answers["base"])
    write_records(folder / "data/responses.json", answers["tuned"])
    write_json(folder / "metrics/evaluate.json", summarise(judgements, judge.identity, evaluate_params()))
    write_json(folder / "metrics/split.json", {"train": 12, "val": 3, "test": len(base), "read": 18, "kept": 18})
    losses = {"initial_val_loss": 3.25, "best_val_loss": 1.5, "last_val_loss": 1.75}
    write_json(folder / "metrics/train.json", {"steps": 6, "best_step": 4, **losses})
    write_curves(folder / "metrics/curves")


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

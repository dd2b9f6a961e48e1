"""What the other stages leave for `plot`, written by hand into a folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from results.sample import answer, make_difference, write_answers, write_results, write_training

from instruct.core.files import write_csv, write_json
from instruct.results.runs import EVALUATE, PAIRS, PREFER, REWARDS
from instruct.results.schema import REFERENCE, Results, dump

PARAMS = """
model: {backbone: smollm2-135m}
plot: {examples: 3}
prompt: {template: alpaca, system: default}
"""
OLLAMA = {"judge": "ollama", "model": "llama3:8b", "digest": "365c0bd3", "num_ctx": "4096"}
SIMILARITY = {"judge": REFERENCE, "score": "similarity to the reference answer"}
Scores = Sequence[float | None]


def make_run(
    folder: Path,
    base: Scores,
    sft: Scores,
    *,
    judges: Sequence[str] = (REFERENCE,),
    identity: dict[str, str] = SIMILARITY,
    judge: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
    dpo: Scores | None = None,
    **fields: str,
) -> Results:
    """One record per pair of scores; `fields` go into every record, `judge` into every judge's results."""
    (folder / "params.yaml").write_text(PARAMS)
    scores = {"base": base, "sft": sft}
    if dpo is not None:
        scores["dpo"] = dpo
        by_id = {system: {f"r{i}": value for i, value in enumerate(values)} for system, values in scores.items()}
        judge = {**(judge or {}), "over_previous": (make_difference("sft", "dpo", by_id),)}
    answers = {
        system: [answer(f"r{i}", **{"text": f"{system} answer {i}", **fields}) for i in range(len(base))]
        for system in scores
    }
    found = write_results(
        folder,
        dict.fromkeys(judges, scores),
        kinds=["facts"] * len(base),
        identities=dict.fromkeys(judges, identity),
        md5s=write_answers(folder, answers),
        **(judge or {}),
    )
    found = replace(found, **(extra or {}))
    write_json(folder / EVALUATE, dump(found))
    write_training(folder)
    return found


def rewards_at(step: int, accuracy: float, log_prob: float) -> dict[str, float]:
    """What an evaluation on held-out pairs measures."""
    return {
        "reward_chosen": 0.01 * step, "reward_rejected": -0.02 * step, "margin": 0.03 * step, "accuracy": accuracy,
        "chosen_log_prob": log_prob, "rejected_log_prob": log_prob - 0.5, "kl": 0.001 * step, "chosen_tokens": 8.0,
        "rejected_tokens": 9.0,
    }  # fmt: skip


def write_preferring(folder: Path) -> None:
    """What the stages `pairs` and `prefer` leave in metrics, with a chosen answer that became less likely."""
    pairs = {
        "source": "on-policy", "without": {"unended": 4, "no_margin": 30}, "dropped": {"identical": 3, "leaked": 2},
        "contradictory": 0, "pairs": 480, "prompts": 400, "train": 432, "val": 48, "median_alike": 55.5,
        "baselines": {"longer": 61.0, "words": 72.0}, "warnings": ["words alone tell most pairs"],
    }  # fmt: skip
    points = {0: (0.5, -1.0), 20: (0.65, -1.5), 40: (0.7, -2.0)}
    found = {step: rewards_at(step, *one) for step, one in points.items()}
    details = {"best_step": 20, "initial": found[0], "last": found[40], "warnings": ["the chosen answers fell <so>"]}
    prefer = {"steps": 40, "initial_val_loss": 0.6931, "best_val_loss": 0.6, "details": [details], "best": found[20]}
    write_json(folder / PAIRS, pairs)
    write_json(folder / PREFER, {**prefer, "baselines": {"longer": 0.61, "words": 0.72}})
    rows = [{"step": step, "epoch": 0, "tokens": step, "loss": 0.69, **one} for step, one in found.items()]
    write_csv(folder / REWARDS, list(rows[0]), rows)

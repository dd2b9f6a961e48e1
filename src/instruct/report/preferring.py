"""Preference tuning on a page: the pairs, what simple rules tell of them, and what training made of the rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from instruct.core.parsing import mapping
from instruct.report.charts import LARGEST
from instruct.report.tables import Cell, Table, number, plain
from instruct.results.runs import Run

RULES = {"longer": "the longer answer alone", "words": "a bag of words"}
POINTS = ("step", "reward_chosen", "reward_rejected", "margin", "accuracy")
MEASURED = {
    "margin": ("reward margin", "{:+.3f}"),
    "reward_chosen": ("reward of the chosen answer", "{:+.3f}"),
    "reward_rejected": ("reward of the rejected answer", "{:+.3f}"),
    "chosen_log_prob": ("log-probability of the chosen answer, per token", "{:.3f}"),
    "rejected_log_prob": ("log-probability of the rejected answer, per token", "{:.3f}"),
    "kl": ("KL estimate to the SFT model, per token", "{:.4f}"),
}


@dataclass(frozen=True, kw_only=True)
class Preferring:
    """What a page says of preference tuning.

    `lines` are about the pairs, `warnings` what speaks against pairs or model; `rules` are shares by name; `curve` is
    what evaluations on held-out pairs measured.
    """

    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    table: Table
    rules: Mapping[str, float]
    curve: Sequence[Mapping[str, float]]


def preferring_of(run: Run) -> Preferring | None:
    """What there is to show; None where the run's results know no system made from another, whatever files are left."""
    if run.results.previous is None or not run.prefer:
        return None
    curve = [row for row in run.rewards if all(abs(row.get(name, nan)) <= LARGEST for name in POINTS)]
    return Preferring(
        lines=tuple(_pair_lines(run.pairs)),
        warnings=(*_texts(run.pairs), *_texts(run.prefer)),
        table=reward_table(run.prefer),
        rules={RULES[name]: share for name, share in rules_of(run.prefer).items()},
        curve=curve,
    )


def rules_of(prefer: Mapping[str, Any]) -> dict[str, float]:
    """The shares of pairs that simple rules tell, by name."""
    found = {name: _number(mapping(prefer.get("baselines")), name) for name in RULES}
    return {name: value for name, value in found.items() if value is not None}


def reward_table(prefer: Mapping[str, Any]) -> Table:
    """What is measured on held-out pairs before the first step, at the best evaluation and at the last."""
    ends = [mapping(prefer.get(name)) for name in ("initial", "best", "last")]
    shares = [_number(end, "accuracy") for end in ends]
    rules = ", ".join(f"{RULES[name]} {100 * share:.1f}" for name, share in rules_of(prefer).items())
    rows: list[Sequence[Cell | str]] = [
        (Cell("reward accuracy, %", rules), *(number(None if one is None else 100 * one) for one in shares))
    ]
    for name, (label, form) in MEASURED.items():
        rows.append((label, *(number(_number(end, name), form) for end in ends)))
    step = prefer.get("best_step")
    return Table(
        name="Rewards on held-out pairs",
        caption="Means over the held-out pairs; below the reward accuracy is what it must beat.",
        head=("held-out pairs", "SFT model", "best" if step is None else f"best (step {step})", "last"),
        rows=rows,
    )


def tuning_table(runs: Sequence[Run]) -> Table | None:
    """A row for each run that has been preference-tuned; None where none has."""
    found = [run for run in runs if run.prefer and run.results.previous]
    rows = [(run.name, *_tuning_cells(run)) for run in found]
    heads = ("pairs", "reward accuracy, %", *(f"{name}, %" for name in RULES.values()), "margin", "chosen log-prob")
    caption = "At the best evaluation on held-out pairs; the log-probability per token is before and after."
    return Table(name="Preference tuning", caption=caption, head=("run", *heads), rows=rows) if found else None


def _tuning_cells(run: Run) -> list[str]:
    first, best, rules = mapping(run.prefer.get("initial")), mapping(run.prefer.get("best")), rules_of(run.prefer)
    shares = [_number(best, "accuracy"), *(rules.get(name) for name in RULES)]
    before, after = (number(_number(end, "chosen_log_prob"), "{:.3f}") for end in (first, best))
    count = run.pairs.get("pairs")
    return [
        number(count if isinstance(count, int) else None, "{:d}"),
        *(number(None if one is None else 100 * one) for one in shares),
        number(_number(best, "margin"), "{:+.3f}"),
        f"{before} → {after}",
    ]


def _pair_lines(pairs: Mapping[str, Any]) -> list[str]:
    if not pairs:
        return ["metrics/preferred/pairs.json is missing, so nothing is known of the pairs."]
    count, prompts, train, val = (pairs.get(name, "?") for name in ("pairs", "prompts", "train", "val"))
    source = pairs.get("source", "an unknown source")
    lines = [f"{count} pairs on {prompts} prompts, source {source}: {train} to train on, {val} held out."]
    for name, said in (("without", "Records that gave no pair"), ("dropped", "Pairs dropped")):
        counts = [f"{plain(str(why))} {number}" for why, number in mapping(pairs.get(name)).items()]
        lines += [f"{said}: {', '.join(counts)}."] if counts else []
    return lines


def _texts(values: Mapping[str, Any]) -> list[str]:
    found = values.get("warnings")
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return value + 0.0 if isinstance(value, int | float) and isfinite(value) else None  # 0.0 in place of -0.0

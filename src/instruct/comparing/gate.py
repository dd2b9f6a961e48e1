"""`--fail-if`: what a comparison may not say, or a check of a pull request fails."""

import re
from dataclasses import dataclass
from typing import Literal

from instruct.comparing.compare import Comparison
from instruct.comparing.scores import SEEDS
from instruct.core.errors import ParamsError
from instruct.results.runs import all_stale_lines

_WORDS = re.compile(r"(worse|not-better)|worse-by ([0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Fails where the primary score of B is `worse`, or is `not-better`, or is worse by more than `margin` points.

    The first two are verdicts on recipes. A margin speaks of trained models too, since it leaves room for what seeds
    alone do: it is passed by where B's interval lies wholly below it. The same answers are
    never worse and never better.
    """

    kind: Literal["worse", "not-better", "worse-by"]
    margin: float = 0.0


def parse_gate(text: str) -> Gate | None:
    """The gate that `--fail-if` names, None for an empty text; raises ParamsError for anything else."""
    if not text.strip():
        return None
    found = _WORDS.fullmatch(" ".join(text.split()))
    if not found or (found[2] and not 0 < float(found[2]) < 100):
        raise ParamsError(
            f'--fail-if must be worse, not-better, or worse-by and points from 0 to 100 ("worse-by 2"), is {text}'
        )
    if found[2]:
        return Gate(kind="worse-by", margin=float(found[2]))
    return Gate(kind="worse" if found[1] == "worse" else "not-better")


def gate_fails(gate: Gate, comparison: Comparison) -> bool:
    """Whether the gate's verdict holds; raises ParamsError where there is none to be had."""
    if comparison.changes:
        raise ParamsError("--fail-if cannot judge what is not comparable; leave out --anyway or --fail-if")
    if stale := all_stale_lines((*comparison.a, *comparison.b)):
        more = f" (and {len(stale) - 1} more)" if len(stale) > 1 else ""
        raise ParamsError(f"--fail-if cannot judge results of other settings: {stale[0]}{more}")
    score = comparison.primary
    if comparison.identical:
        return gate.kind == "not-better"
    if gate.kind == "worse-by":
        return score.found == "worse" and score.difference.high < -gate.margin
    if not score.of_recipes:
        baseline = comparison.a[0].baseline
        seeds = (
            f"(`instruct compare A1,A2 --baseline {baseline}`)"
            if baseline
            else "of each (`instruct compare A1,A2 B1,B2`)"
        )
        raise ParamsError(
            f"--fail-if {gate.kind} is about recipes and needs {SEEDS} seeds or more {seeds}; "
            'with one, use a margin: --fail-if "worse-by 2"'
        )
    return score.found == "worse" or (gate.kind == "not-better" and score.found != "better")

"""What a run has done: its steps and evaluations, which decide how it goes on, weights apart."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainPoint:
    """One optimizer step: `loss` and `grad_norm` are from before its update; `tokens` are all real ones so far.

    `measures` are what the objective tells beside its loss, by name.
    """

    step: int
    epoch: float
    tokens: int
    lr: float
    loss: float
    grad_norm: float
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ValPoint:
    """Loss on all of val after `step` optimizer steps, and what the objective tells beside it."""

    step: int
    epoch: float
    tokens: int
    loss: float
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class History:
    """What a run has done so far; everything that decides how it goes on, weights apart."""

    train: list[TrainPoint] = field(default_factory=list)
    val: list[ValPoint] = field(default_factory=list)
    without_better: int = 0
    stopped_early: bool = False

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return len(self.train)

    @property
    def tokens(self) -> int:
        """Tokens of the examples trained on."""
        return self.train[-1].tokens if self.train else 0

    @property
    def has_best(self) -> bool:
        """Whether there was an evaluation since training began."""
        return any(point.step for point in self.val)

    @property
    def best(self) -> ValPoint:
        """The evaluation of the best checkpoint: the lowest loss since training began, the earliest of several."""
        return min((point for point in self.val if point.step), key=lambda point: point.loss)

    def add_evaluation(self, point: ValPoint) -> bool:
        """Note an evaluation; says whether it is the best since training began."""
        self.val.append(point)
        better = bool(point.step) and self.best is point
        self.without_better = 0 if better or not point.step else self.without_better + 1
        return better

    @classmethod
    def restore(cls, values: dict[str, Any]) -> "History":
        """From the JSON of `asdict`, to the bit: JSON keeps every digit of a float."""
        return cls(
            train=[TrainPoint(**point) for point in values["train"]],
            val=[ValPoint(**point) for point in values["val"]],
            without_better=values["without_better"],
            stopped_early=values["stopped_early"],
        )

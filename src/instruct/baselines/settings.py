"""The settings of the baselines, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from instruct.core.params import require

Baseline = Literal["template", "chat", "few-shot", "echo", "nearest"]
# What the comparison calls each, which is also the name of its file.
SYSTEM_OF: Mapping[Baseline, str] = {
    "template": "base",
    "chat": "base-chat",
    "few-shot": "base-few-shot",
    "echo": "echo",
    "nearest": "nearest",
}


@dataclass(frozen=True, kw_only=True)
class BaselineParams:
    """The section `baseline` of params.yaml.

    `template` is the base model in the training template, `chat` in its own chat template, `few-shot` with `shots`
    training examples before each question, chosen by `seed`. `echo` repeats the input, and `nearest` gives the answer
    of the most similar training record.
    """

    systems: tuple[Baseline, ...]
    shots: int
    seed: int

    def __post_init__(self) -> None:
        named = ", ".join(self.systems)
        require("systems", named or "empty", bool(self.systems), "at least one system")
        require("systems", named, len(set(self.systems)) == len(self.systems), "each system once")
        require("shots", self.shots, self.shots >= 1, "at least 1")
        require("seed", self.seed, self.seed >= 0, "at least 0")

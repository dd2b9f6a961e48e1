"""The settings of preference tuning, apart from the code that needs torch, so that `instruct check` answers at once."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from instruct.core.params import require
from instruct.model.settings import Base
from instruct.training.settings import Batching, LoopParams

Method = Literal["dpo"]
LossName = Literal["sigmoid", "ipo", "sigmoid_norm"]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """All settings that reference log-probs depend on, so that one file serves a sweep of the others."""

    batching: Batching
    max_length: int
    over_long: Literal["raise", "truncate", "drop"]
    base: Base  # of the frozen layers: the reference is the model that training starts from, rounding and all


@dataclass(frozen=True, kw_only=True)
class PreferParams(LoopParams):
    """The section `prefer` of params.yaml, beside what every training loop is set by; an example is a pair.

    `methods` names what runs after `train`; without any, nothing does. The losses are functions of how much the log
    ratio of policy to reference (`beta` times that is the reward) of the chosen answer exceeds that of the rejected
    one: `sigmoid` takes sums over an answer with its end token (DPO, Rafailov et al., 2023), `sigmoid_norm` and `ipo`
    (Azar et al., 2023) take means over its tokens, which `beta` must suit. `label_smoothing` is the share of pairs
    that may be labelled the wrong way round (conservative DPO). `sft_weight` times the negative log-likelihood of the
    chosen answers is added: the mean over the tokens of each, then over pairs. (SFT takes the mean over all tokens.)
    Evaluations use `eval_pairs` of the held-out pairs, always the same, or all (0).
    """

    section: ClassVar[str] = "prefer"

    methods: tuple[Method, ...]
    loss: LossName
    beta: float
    label_smoothing: float
    sft_weight: float
    eval_pairs: int

    def __post_init__(self) -> None:
        super().__post_init__()
        doubled = [name for name in self.methods if self.methods.count(name) > 1]
        require("methods", ", ".join(self.methods), not doubled, "a list that names each method once")
        require("beta", self.beta, 0 < self.beta < float("inf"), "above 0")
        require("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 0.5, "from 0 to below 0.5")
        without = self.loss != "ipo" or self.label_smoothing == 0
        require("label_smoothing", self.label_smoothing, without, "0 where loss is ipo")
        require("sft_weight", self.sft_weight, 0 <= self.sft_weight < float("inf"), "at least 0")
        require("eval_pairs", self.eval_pairs, self.eval_pairs >= 0, "at least 0")

    @property
    def fit(self) -> Fit:
        """The settings of batches and of the starting model alone."""
        return Fit(batching=self.batching, max_length=self.max_length, over_long=self.over_long, base=self.lora.base)

    @property
    def evaluated(self) -> int:
        """How many held-out pairs an evaluation takes; 0: all."""
        return self.eval_pairs

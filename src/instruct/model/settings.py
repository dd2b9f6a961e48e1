"""Settings of the model, apart from it so that `instruct check` reads them without loading torch."""

from dataclasses import dataclass
from typing import Literal

from instruct.core.params import require

Base = Literal["fp32", "int8", "nf4"]


@dataclass(frozen=True, kw_only=True)
class LoraParams:
    """The section `train.lora` of params.yaml.

    Rank `r` 0 trains all weights. `target_modules` are the names of linear layers, such as q_proj or c_attn;
    empty takes every linear layer of the blocks. `base` is how the frozen layers are kept while training (QLoRA).
    """

    r: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    base: Base

    def __post_init__(self) -> None:
        require("r", self.r, self.r >= 0, "at least 0")
        require("alpha", self.alpha, 0 < self.alpha < 1e9, "above 0")
        require("base", self.base, self.base == "fp32" or self.r > 0, "fp32 where r is 0: all weights are trained")
        require("dropout", self.dropout, 0 <= self.dropout < 1, "from 0 to below 1")

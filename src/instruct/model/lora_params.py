"""The settings of LoRA, without torch."""

from dataclasses import dataclass

from instruct.params import require


@dataclass(frozen=True, kw_only=True)
class LoraParams:
    """The section `train.lora` of params.yaml.

    Rank `r` 0 trains all weights. `target_modules` are the names of linear layers, such as q_proj or c_attn;
    empty takes every linear layer of the blocks.
    """

    r: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]

    def __post_init__(self) -> None:
        require("r", self.r, self.r >= 0, "at least 0")
        require("alpha", self.alpha, self.alpha > 0, "above 0")
        require("dropout", self.dropout, 0 <= self.dropout < 1, "from 0 to below 1")

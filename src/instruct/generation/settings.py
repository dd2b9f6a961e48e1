"""The settings of generation, without torch."""

from dataclasses import dataclass

from instruct.params import require


@dataclass(frozen=True, kw_only=True)
class GenerateParams:
    """The section `generate` of params.yaml.

    Temperature 0 is greedy; otherwise one token is drawn from the `top_k` likeliest (0: all) that together hold
    `top_p` of the probability (1: all), from a generator of its own for each record. `batch_size` prompts are
    answered side by side.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    batch_size: int

    def __post_init__(self) -> None:
        require("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1")
        require("temperature", self.temperature, 0 <= self.temperature <= 10, "from 0 to 10")
        require("top_k", self.top_k, self.top_k >= 0, "at least 0")
        require("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        require("seed", self.seed, self.seed >= 0, "at least 0")
        require("batch_size", self.batch_size, self.batch_size >= 1, "at least 1")

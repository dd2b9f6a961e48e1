"""The settings of generation, without torch."""

from dataclasses import dataclass
from typing import Literal

from instruct.core.params import require


@dataclass(frozen=True, kw_only=True)
class GenerateParams:
    """The section `generate` of params.yaml.

    Temperature 0 is greedy; otherwise one token is drawn from the `top_k` likeliest (0: all) that together hold
    `top_p` of the probability (1: all), with a separate random generator for each record. `num_samples` answers are
    given to each prompt, and the one that most agree with is the response. An answer that ends with the same
    tokens `max_repeats` times over is stopped (0: never). At most `batch_size` answers are in progress, and their
    cache holds at most `cache_tokens` tokens. A prompt that leaves no room for `max_new_tokens` is refused, or cut
    in its middle (`over_long`). `weights` int8 is faster on a CPU and gives other answers now and then.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    num_samples: int
    max_repeats: int
    over_long: Literal["raise", "truncate"]
    weights: Literal["fp32", "int8"]
    batch_size: int
    cache_tokens: int
    seed: int

    def __post_init__(self) -> None:
        require("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1")
        require("temperature", self.temperature, 0 <= self.temperature <= 10, "from 0 to 10")
        require("top_k", self.top_k, self.top_k >= 0, "at least 0")
        require("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        require("num_samples", self.num_samples, self.num_samples >= 1, "at least 1")
        require("max_repeats", self.max_repeats, self.max_repeats in (0, *range(2, 1001)), "0 or from 2 to 1000")
        require("batch_size", self.batch_size, self.batch_size >= 1, "at least 1")
        require("cache_tokens", self.cache_tokens, self.cache_tokens >= 1, "at least 1")
        require("seed", self.seed, self.seed >= 0, "at least 0")
        several = self.num_samples == 1 or self.temperature > 0
        require(
            "num_samples", self.num_samples, several, "1 where temperature is 0, since greedy answers are all the same"
        )

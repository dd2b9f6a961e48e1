"""The settings of evaluation."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from instruct.params import require

JudgeName = Literal["reference", "ollama"]


@dataclass(frozen=True, kw_only=True)
class OllamaParams:
    """How to ask an Ollama server. `timeout` in seconds is for one verdict; the first also loads the model."""

    url: str
    model: str
    num_ctx: int
    num_predict: int
    seed: int
    timeout: float
    retries: int

    def __post_init__(self) -> None:
        require("url", self.url, _is_address(self.url), "an address like http://127.0.0.1:11434")
        require("model", self.model, bool(self.model.strip()), "the tag of a model")
        require("num_ctx", self.num_ctx, self.num_ctx >= 256, "at least 256 tokens")
        require("num_predict", self.num_predict, self.num_predict >= 8, "at least 8 tokens")
        require("seed", self.seed, self.seed >= 0, "at least 0")
        require("timeout", self.timeout, 0 < self.timeout <= 86_400, "above 0 and at most 86400 seconds")
        require("retries", self.retries, 0 <= self.retries <= 20, "from 0 to 20")


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """The section `evaluate` of params.yaml.

    Intervals and tests draw `resamples` times from `seed`. More than the share `max_unscored` of verdicts without
    a score stops the stage.
    """

    judges: tuple[JudgeName, ...]
    ollama: OllamaParams
    resamples: int
    seed: int
    max_unscored: float

    def __post_init__(self) -> None:
        require("judges", list(self.judges), bool(self.judges), "a list of at least one judge")
        require("judges", list(self.judges), len(set(self.judges)) == len(self.judges), "a list without repetition")
        require("resamples", self.resamples, 100 <= self.resamples <= 1_000_000, "from 100 to 1000000")
        require("seed", self.seed, self.seed >= 0, "at least 0")
        require("max_unscored", self.max_unscored, 0 <= self.max_unscored <= 1, "from 0 to 1")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False

"""The settings of preference pairs, without torch."""

from dataclasses import dataclass
from typing import Literal

from instruct.core.params import require
from instruct.servers.settings import ServerName

Source = Literal["file", "on-policy", "rewrite"]
Rank = Literal["both", "checks", "similarity"]


@dataclass(frozen=True, kw_only=True)
class SampleParams:
    """The section `pairs.on_policy`: how the SFT model's own answers to the training prompts become pairs.

    Each prompt gets `samples` answers, the best of which is chosen and the worst rejected, where they are `margin`
    points apart. Answers to closed questions are ranked by their check, all others by similarity to the reference
    (`both`), or only by one of the two.
    """

    samples: int
    temperature: float
    top_p: float
    rank: Rank
    margin: float

    def __post_init__(self) -> None:
        require("samples", self.samples, 2 <= self.samples <= 1000, "from 2 to 1000")
        require("temperature", self.temperature, 0 < self.temperature <= 10, "above 0 and at most 10")
        require("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        require("margin", self.margin, 0 < self.margin <= 100, "above 0 and at most 100")


@dataclass(frozen=True, kw_only=True)
class RewriteParams:
    """The section `pairs.rewrite`: a server rewrites each reference answer, by a coin politely or impolitely."""

    server: ServerName
    max_tokens: int
    max_failed: float

    def __post_init__(self) -> None:
        require("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        require("max_failed", self.max_failed, 0 <= self.max_failed <= 1, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class PairsParams:
    """The section `pairs` of params.yaml.

    Pairs come from `file`, from the SFT model's answers (`on-policy`) or from a server (`rewrite`). Pairs whose two
    answers are `max_alike` or more alike are dropped, and so are (or are refused, by `on_leak`) those whose prompt
    resembles one of val or test by `max_similarity`; both are rapidfuzz's ratio from 0 to 100. A share `val` of the
    pairs is held out, in whole groups.
    """

    source: Source
    file: str
    invalid: Literal["raise", "drop"]
    max_alike: float
    max_similarity: float
    on_leak: Literal["drop", "raise"]
    val: float
    seed: int
    on_policy: SampleParams
    rewrite: RewriteParams

    def __post_init__(self) -> None:
        require("file", "empty", bool(self.file), "a file of pairs")
        require("max_alike", self.max_alike, 0 < self.max_alike <= 100, "above 0 and at most 100")
        require("max_similarity", self.max_similarity, 50 <= self.max_similarity <= 100, "from 50 to 100")
        require("val", self.val, 0 < self.val <= 0.5, "above 0 and at most 0.5")
        require("seed", self.seed, self.seed >= 0, "at least 0")

"""The section `augment` of params.yaml."""

from dataclasses import dataclass
from typing import Literal

from instruct.core.errors import ParamsError
from instruct.core.params import require
from instruct.servers.settings import ServerName

MethodName = Literal["rules", "passive", "reflect_instruction", "reflect_answer", "magpie"]


@dataclass(frozen=True, kw_only=True)
class MagpieParams:
    """How a model invents instructions: from an empty message with this `role`, without earlier messages.

    `system` may steer the topics; `records` are requested, each with its own seed.
    """

    records: int
    role: Literal["user", "assistant"]
    system: str
    temperature: float

    def __post_init__(self) -> None:
        require("records", self.records, self.records >= 1, "at least 1")
        require("temperature", self.temperature, 0 < self.temperature <= 2, "above 0 and at most 2")


@dataclass(frozen=True, kw_only=True)
class AugmentParams:
    """How records are added to train; without methods there are no new records.

    Each method uses `parents` records, the first by a hash of their ids; 0 takes all. A new record is left out if its
    similarity to a held-out one is `max_similarity` (0-100) or more. `max_failed` is the share of a method's questions
    that may stay without a usable reply.
    """

    methods: tuple[MethodName, ...]
    parents: int
    server: ServerName
    max_tokens: int
    max_similarity: float
    max_failed: float
    seed: int
    magpie: MagpieParams

    def __post_init__(self) -> None:
        if len(set(self.methods)) != len(self.methods):
            raise ParamsError(f"methods must differ, are {', '.join(self.methods)}")
        require("parents", self.parents, self.parents >= 0, "at least 0 (0: all)")
        require("max_tokens", self.max_tokens, 1 <= self.max_tokens <= 8192, "from 1 to 8192")
        require("max_similarity", self.max_similarity, 50 <= self.max_similarity <= 100, "from 50 to 100")
        require("max_failed", self.max_failed, 0 <= self.max_failed <= 1, "from 0 to 1")

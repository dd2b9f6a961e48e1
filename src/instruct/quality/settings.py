"""The settings of the quality check, without torch."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from instruct.core.params import require


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The action if more than the share `max_share` of all records has a finding."""

    max_share: float
    action: Literal["warn", "fail"]

    def __post_init__(self) -> None:
        require("max_share", self.max_share, 0 <= self.max_share <= 1, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Gates:
    """A gate for each finding."""

    empty_answer: Gate
    one_word_answer: Gate
    repeats_question: Gate
    repetition: Gate
    contradictory_answers: Gate
    control_characters: Gate
    broken_encoding: Gate
    mixed_scripts: Gate
    mixed_languages: Gate
    template_markers: Gate
    unspellable: Gate
    pii_email: Gate
    pii_phone: Gate
    pii_card: Gate
    pii_key: Gate

    def __iter__(self) -> Iterator[tuple[str, Gate]]:
        return ((field.name, getattr(self, field.name)) for field in fields(self))


FINDINGS = tuple(field.name for field in fields(Gates))


@dataclass(frozen=True, kw_only=True)
class QualityParams:
    """The section `quality` of params.yaml.

    Each finding lists at most `listed` records. Tokens are counted in all records or, with more than `token_sample`
    records, in a sample of that size or down to half of it, chosen by a hash of their ids.
    """

    listed: int
    token_sample: int
    gates: Gates

    def __post_init__(self) -> None:
        require("listed", self.listed, 0 <= self.listed <= 1000, "from 0 to 1000")
        require("token_sample", self.token_sample, self.token_sample >= 2, "at least 2")

"""What a judge is: answers of systems in, verdicts out. Reading a score from a reply is `parse`'s work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from instruct.core.records import Response

Answers = Mapping[str, Sequence[Response]]
"""Each system's responses to the same records, in the same order."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A score from 0 to 100, or None with the reason; every reply is kept as it came.

    With repeats `score` is the mean of the replies that hold one, and `spread` their standard deviation. `failed`
    of the replies hold none; a pair's replies in both orders count as one. `prompt_sha256` is of what the judge was
    told. `choices` are what was said in each order of a pair.
    """

    score: float | None
    raw_reply: str
    problem: str = ""
    spread: float | None = None
    replies: tuple[str, ...] = ()
    failed: int = 0
    prompt_sha256: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Exactly which judge it was: `about` names model, digest, version; the rubric by name and content."""

    about: dict[str, str] = field(default_factory=dict)
    rubric: str = ""
    rubric_sha256: str = ""


class Judge(Protocol):
    """Gives verdicts. One that `pairs` compares exactly two systems."""

    pairs: bool

    @property
    def identity(self) -> Identity:
        """Which judge this is."""

    def prepare(self, *groups: Answers, perhaps: Sequence[Answers] = ()) -> None:
        """Raise JudgeError where judging these answers cannot succeed, before the first verdict.

        Those of `perhaps` may never be asked about.
        """

    def judge(self, answers: Answers) -> dict[str, list[Verdict]]:
        """A verdict on every response of every system, in order."""

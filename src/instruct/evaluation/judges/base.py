"""What a judge is: text in, raw reply out. Reading a score from the reply is `parse`'s work."""

from dataclasses import dataclass
from typing import Protocol

from instruct.records import Response


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A score from 0 to 100, or None with the reason; the reply is kept as it came."""

    score: float | None
    raw_reply: str
    problem: str = ""


class Judge(Protocol):
    """Gives verdicts. `identity` says exactly which judge it was: name, model, digest, version."""

    identity: dict[str, str]

    def judge(self, response: Response) -> Verdict:
        """The verdict on one response."""
        ...

"""What a detector yields."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """One finding in one field of a record; `what` says which, and never quotes what may be personal."""

    finding: str
    field: str
    what: str


TEXTS = ("instruction", "input", "output")

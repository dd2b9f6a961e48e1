"""The result type of the detectors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """One finding in one field of a record; `what` describes it and never quotes personal data."""

    finding: str
    field: str
    what: str


TEXTS = ("instruction", "input", "output")

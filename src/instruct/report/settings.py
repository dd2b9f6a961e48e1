"""The settings of plotting."""

from dataclasses import dataclass

from instruct.core.params import require


@dataclass(frozen=True, kw_only=True)
class PlotParams:
    """The section `plot` of params.yaml: how many of the worst and of the most improved answers the page shows."""

    examples: int

    def __post_init__(self) -> None:
        require("examples", self.examples, 0 <= self.examples <= 1000, "from 0 to 1000")

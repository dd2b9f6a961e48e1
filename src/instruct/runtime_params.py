"""The settings of the runtime, without torch."""

from dataclasses import dataclass
from typing import Literal

from instruct.params import require


@dataclass(frozen=True, kw_only=True)
class RuntimeParams:
    """The section `runtime` of params.yaml.

    `device` auto takes CUDA, then MPS, then CPU. `precision` auto is bf16 on CUDA and fp32 elsewhere; weights
    stay fp32. The same bytes come out only with the same `num_threads`.
    """

    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "fp32", "bf16"]
    num_threads: int

    def __post_init__(self) -> None:
        require("num_threads", self.num_threads, 1 <= self.num_threads <= 1024, "from 1 to 1024")

"""Where and how torch computes: device, number of threads, precision. Settings are checked without importing it."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from instruct.core.errors import ParamsError
from instruct.core.params import require
from instruct.core.processor import this_processor

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # from malloc.h


@dataclass(frozen=True, kw_only=True)
class RuntimeParams:
    """The section `runtime` of params.yaml.

    `device` auto takes CUDA, then MPS, then CPU. `precision` auto is bf16 on CUDA and fp32 elsewhere; weights
    stay fp32. Results are the same bytes only with the same `num_threads`.
    """

    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "fp32", "bf16"]
    num_threads: int

    def __post_init__(self) -> None:
        require("num_threads", self.num_threads, 1 <= self.num_threads <= 1024, "from 1 to 1024")


@dataclass(frozen=True)
class Runtime:
    """The device in use and the precision of its matrix products."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which a model computes."""
        import torch

        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def start_runtime(params: RuntimeParams) -> Runtime:
    """Set threads and choose the device; raises ParamsError for what this machine lacks."""
    import torch

    keep_freed_memory()
    torch.set_num_threads(params.num_threads)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(name for name, here in available.items() if here) if params.device == "auto" else params.device
    if not available[name]:
        there = ", ".join(sorted(name for name, here in available.items() if here))
        raise ParamsError(f"params.yaml: runtime.device is {name}, which this machine lacks; it has {there}")
    low = params.precision == "bf16" or (params.precision == "auto" and name == "cuda")
    if low and name == "cpu" and this_processor().multiplies_bf16 is False:
        raise ParamsError(
            "params.yaml: runtime.precision is bf16, but this processor has no instructions for it: it would be slower "
            f"than fp32 on {this_processor().described}; set it to auto"
        )
    return Runtime(torch.device(name), torch.bfloat16 if low else torch.float32)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation; does nothing without glibc.

    By default it returns every large tensor's memory to the system, and the next tensor faults it in page by page. The
    settings are M_MMAP_MAX 0 (no separate mappings for large blocks) and M_TRIM_THRESHOLD -1 (no return), mallopt(3).
    """
    set_malloc((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))


def set_malloc(*options: tuple[int, int]) -> None:
    """Set options of glibc's malloc in this order; does nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option, value in options:
            mallopt(option, value)

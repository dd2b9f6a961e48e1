"""How fast a run was and where its time went; printed and kept outside tracked outputs, since clocks differ."""

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from instruct.core.files import write_json
from instruct.core.runtime import Runtime
from instruct.model.linear import linear
from instruct.training.objective import Item

log = logging.getLogger(__name__)


class Stopwatch:
    """Seconds by phase, and the tokens of the examples trained on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens = self.response_tokens = self.examples = 0
        self.flops = 0.0  # floating-point operations that training needed

    @contextmanager
    def phase(self, name: str, *, examples: Sequence[Item] = ()) -> Iterator[None]:
        """Count the time inside to a phase, and `examples` as trained on."""
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started
        self.examples += len(examples)
        self.tokens += sum(example.token_count for example in examples)
        self.response_tokens += sum(example.response_tokens for example in examples)

    def report(self, peak: float) -> dict[str, Any]:
        """Rates over the training phase alone, and seconds of every phase.

        `beside_training` holds the other phases' seconds for each second of training. `peak` is the machine's measured
        rate of floating-point operations.
        """
        trained = max(self.seconds["train"], 1e-9)
        return {
            "share_of_matmul_peak": round(self.flops / trained / peak, 3),
            "records_per_s": round(self.examples / trained, 2),
            "tokens_per_s": round(self.tokens / trained, 1),
            "response_tokens_per_s": round(self.response_tokens / trained, 1),
            "peak_memory_mb": round(peak_memory_mb()),
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "beside_training": {
                name: round(value / trained, 3) for name, value in self.seconds.items() if name != "train"
            },
        }


def write_speed(path: Path, report: Mapping[str, Any]) -> None:
    """Print how fast a run was and keep it at `path`, which neither Git nor DVC tracks: clocks differ."""
    write_json(path, report)
    seconds = ", ".join(f"{name} {value} s" for name, value in report["seconds"].items())
    log.info(
        "%(records_per_s)s records/s, %(tokens_per_s)s tokens/s (%(response_tokens_per_s)s of responses), "
        "%(share_of_matmul_peak).0f %% of the matmul peak, %(peak_memory_mb)s MB",
        {**report, "share_of_matmul_peak": 100 * report["share_of_matmul_peak"]},
    )
    beside = ", ".join(f"{name} {value} s" for name, value in report["beside_training"].items())
    log.info("%s; for each second of train: %s (kept in %s)", seconds, beside, path)


def peak_memory_mb() -> float:
    """The most memory this process held: of the GPU where one is in use, else of the machine."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    import resource  # not on Windows, where the module must still load

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def matmul_peak(runtime: Runtime, size: int = 1024, repeats: int = 8) -> float:
    """The best rate, in operations a second, at which this machine multiplies square matrices right now.

    In the precision that trains; on a GPU the matrices are so large that a launch does not count.
    """
    size = max(size, 8192) if runtime.device.type == "cuda" else size
    a = torch.randn(size, size, device=runtime.device, dtype=runtime.dtype)
    best = 0.0
    for repeat in range(2 * repeats):
        started = time.perf_counter()
        product = linear(a, a) if repeat % 2 else a @ a
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    assert product.shape == a.shape
    return best

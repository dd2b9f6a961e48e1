"""The learning rate over a run."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Learning rate by optimizer step (counted from 0): linear rise to `peak`, cosine fall to `floor`.

    Loshchilov & Hutter, 2017 (SGDR), without restarts. The first step already moves, the last one has `floor`.
    """

    peak: float
    floor: float
    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        """The learning rate of this step."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        falling = max(self.total_steps - 1 - self.warmup_steps, 1)
        share = min((step - self.warmup_steps) / falling, 1.0)
        return self.floor + (self.peak - self.floor) * 0.5 * (1 + math.cos(math.pi * share))

"""Limits of a model's size: far above any that one machine trains, far below the claims of hostile files."""

import math
from collections.abc import Mapping

from instruct.core.errors import CheckpointError

MOST_LAYERS = 1000
LARGEST_SIZE = 1 << 24
MOST_RANDOM_WEIGHTS = 1 << 30


def check_shape(layers: int, sizes: Mapping[str, int], numbers: Mapping[str, float]) -> None:
    """Raise CheckpointError for an impossible shape, before any layer is made."""
    if not 1 <= layers <= MOST_LAYERS:
        raise CheckpointError(f"config: the layers must be 1 to {MOST_LAYERS:,}, are {layers}")
    for name, size in sizes.items():
        if not 1 <= size <= LARGEST_SIZE:
            raise CheckpointError(f"config: {name} must be 1 or more, at most {LARGEST_SIZE:,}, is {size}")
    for name, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            raise CheckpointError(f"config: {name} must be a number above 0, is {number}")

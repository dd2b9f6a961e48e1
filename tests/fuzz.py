"""How many inputs hypothesis tries: few in `make test`, ten times as many in `make test-fuzz`."""

import os

from hypothesis import settings

TIMES = int(os.environ.get("FUZZ", "1"))


def examples(count: int) -> settings:
    """So many inputs, times FUZZ."""
    return settings(max_examples=count * TIMES)

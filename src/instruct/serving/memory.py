"""Keeps a server's memory flat, however many requests of different lengths it answers."""

import os

from instruct.core.runtime import M_MMAP_MAX, M_MMAP_THRESHOLD, set_malloc

# Of torch's two caches of oneDNN kernels: how many each keeps. One number of rows needs about six.
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
LARGE, MOST_LARGE = 2**20, 2**16  # bytes of a block; blocks


def keep_few_kernels() -> None:
    """Bound the memory of oneDNN's kernels, unless the environment does; has no effect after the first product.

    oneDNN makes a kernel for each number of rows, and torch keeps the last 1,024 of them twice. Prompts have any
    length, so a server would grow until it has so many. `make bench-serve ARGS="--flat 10000"` watches its memory.
    """
    for name, count in KERNELS.items():
        os.environ.setdefault(name, count)


def give_back_large_blocks() -> None:
    """Let glibc return large blocks to the system at once; does nothing without glibc.

    `keep_freed_memory` does the contrary, for programs that allocate the same sizes again and again. Prompts of ever
    new lengths fit less and less into the gaps between what is kept.
    """
    set_malloc((M_MMAP_MAX, MOST_LARGE), (M_MMAP_THRESHOLD, LARGE))

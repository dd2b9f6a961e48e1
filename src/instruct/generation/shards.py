"""Shares prompts among the processes of torchrun, and restores the order of their responses."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from instruct.core.errors import ParamsError
from instruct.core.processes import leave_group

T = TypeVar("T")


class Shards:
    """This process's rank among `world_size`; a single process owns everything."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    @property
    def is_main(self) -> bool:
        """Whether this process writes the outputs."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Every `world_size`-th item, from `rank` on."""
        return list(items[self.rank :: self.world_size])

    def collect(self, items: list[T]) -> list[T]:
        """All processes' items in the order they had before `share`."""
        if self.world_size == 1:
            return items
        parts: list[list[T]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(parts, items)
        together: list[T] = []
        for place in range(max(map(len, parts))):
            together += [part[place] for part in parts if place < len(part)]
        return together

    def wait(self) -> None:
        """Wait until every process arrives here."""
        if self.world_size > 1:
            dist.barrier()

    def journal_beside(self, output: Path) -> Path:
        """The journal of this process; another number of processes uses other files."""
        return output.with_name(f".{output.name}.{self.rank}-of-{self.world_size}.partial")


@contextmanager
def join_shards(device: torch.device) -> Iterator[Shards]:
    """Join the other processes of torchrun, each with its own GPU; load models after this."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Shards(0, 1)
        return
    if "RANK" not in os.environ:
        raise ParamsError(
            f"WORLD_SIZE is {world_size}, but torchrun did not start this process; unset it, or set launch.generate to "
            "`torchrun --nproc-per-node N`"
        )
    rank = int(os.environ["RANK"])
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo")
    try:
        yield Shards(rank, world_size)
    finally:
        leave_group()

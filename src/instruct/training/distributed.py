"""One process or many: the same global batch, and the same loss curve within rounding error.

torchrun starts the processes and says who is who by environment variables. `ddp` copies the model to every rank,
`fsdp` shards weights, gradients and optimizer state over them (FSDP2). Only rank 0 writes.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from instruct.core.errors import ParamsError
from instruct.core.processes import leave_group
from instruct.model.decoder import Decoder

ParallelMode = Literal["none", "ddp", "fsdp"]
T = TypeVar("T")


class Parallel:
    """Who this process is among the others, and what they do together."""

    def __init__(self, mode: ParallelMode, rank: int, world_size: int, local_rank: int) -> None:
        self.mode, self.rank, self.world_size, self.local_rank = mode, rank, world_size, local_rank

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T], rank: int | None = None) -> list[T]:
        """The part of the items that is this rank's, or that of another one: every `world_size`-th."""
        return list(items[self.rank if rank is None else rank :: self.world_size])

    def total(self, value: float) -> float:
        """The sum of a number over all ranks, the same on each."""
        return self.totals([value])[0]

    def totals(self, values: Sequence[float]) -> list[float]:
        """The sum of each number over all ranks."""
        if self.mode == "none" or not values:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=_collective_device())
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        return self.total(float(flag)) > 0

    def wrap(self, model: Decoder, module: nn.Module) -> nn.Module:
        """Make `module`, which holds `model`, compute together with the other ranks."""
        model.lookup_in_place = self.mode == "none"  # DDP and FSDP must see every gradient
        if self.mode == "ddp":
            return DistributedDataParallel(module)
        if self.mode == "fsdp":
            for block in model.blocks:
                fully_shard(block)
            fully_shard(module)
        return module

    def shard_again(self, module: nn.Module) -> None:
        """Put back to parts what a forward pass without a backward pass left whole, unknown to the optimizer."""
        if isinstance(module, FSDPModule):
            module.reshard()

    @contextmanager
    def accumulating(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """Exchange gradients only in the backward pass of the step's last micro-batch."""
        if isinstance(module, DistributedDataParallel) and not last:
            with module.no_sync():
                yield
        else:
            if isinstance(module, FSDPModule):
                module.set_requires_gradient_sync(last)
            yield


@contextmanager
def start_parallel(
    mode: ParallelMode, *, examples_per_step: int, device: torch.device, section: str = "train"
) -> Iterator[Parallel]:
    """Join the process group that torchrun made; raises ParamsError where mode and launch do not fit."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if mode == "none":
        if world_size > 1:
            raise ParamsError(
                f"params.yaml: {section}.parallel: none does not work under torchrun; set it to ddp or fsdp"
            )
        yield Parallel("none", 0, 1, 0)
        return
    if "RANK" not in os.environ:
        raise ParamsError(
            f"params.yaml: {section}.parallel is {mode}, but torchrun did not start this process; "
            f"set launch.train to `torchrun --nproc-per-node N`, or {section}.parallel to none"
        )
    if examples_per_step % world_size:  # 0 where a step is counted in tokens
        raise ParamsError(
            f"params.yaml: {section}.micro_batch_size x grad_accum_steps is {examples_per_step}, which {world_size} "
            "processes cannot share evenly; make it a multiple"
        )
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Parallel(mode, rank, world_size, local_rank)
    finally:
        leave_group()


def _collective_device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def is_main() -> bool:
    """Whether this is rank 0, or the only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def from_main(value: T) -> T:
    """Rank 0's value, which the others need not know; `value` itself in a single process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=_collective_device())
    return box[0]


def tensor_from_main(tensor: Tensor | None, shape: torch.Size) -> Tensor:
    """Rank 0's fp32 tensor of this shape, on every rank; the others give None."""
    if not dist.is_initialized():
        assert tensor is not None
        return tensor
    here = torch.empty(shape) if tensor is None else tensor
    there = here.to(_collective_device())
    dist.broadcast(there, src=0)
    return there


def of_all_ranks(value: T) -> list[T]:
    """Every rank's value, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_all(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """The whole of each tensor, on its device, for the rank that wants to `keep` them; nothing for the others.

    Every rank must take part where tensors are sharded. Those that are not are given as they are.
    """
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            whole[name] = full.detach()
    return whole


def scatter_like(whole: Tensor, like: Tensor) -> Tensor:
    """`whole` in the place and the sharding of `like`."""
    if isinstance(like, DTensor):
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
    return whole.to(like.device)

"""A copy of weights in host memory, taken in milliseconds, that training goes on without."""

from collections.abc import Mapping

import torch
from torch import Tensor

from instruct.training.distributed import gather_all


class Snapshot:
    """Tensors as they are now, copied to the host; on a GPU without waiting for it.

    There the copy takes its turn behind the work begun so far and before all that follows, so it is whole. With
    sharded tensors every rank makes one, and those without `keep` hold nothing.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, keep: bool) -> None:
        self._copied: torch.cuda.Event | None = None
        self._tensors: dict[str, Tensor] = {}
        for name, tensor in gather_all(tensors, keep=keep).items():
            self._tensors[name] = host_like(tensor).copy_(tensor, non_blocking=True)
            if tensor.device.type == "cuda" and self._copied is None:
                self._copied = torch.cuda.Event()
        if self._copied is not None:
            self._copied.record()

    def tensors(self) -> dict[str, Tensor]:
        """The copies, once they are whole."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensors


def host_like(tensor: Tensor) -> Tensor:
    """Room for a tensor in host memory: pinned for one on a GPU, if the system allows so much of it."""
    if tensor.device.type == "cuda":
        try:
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        except RuntimeError:
            pass  # copied in small pieces then, which takes longer
    return torch.empty(tensor.shape, dtype=tensor.dtype)

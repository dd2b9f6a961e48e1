"""How a process leaves the process group of torchrun."""

import ctypes

import torch.distributed as dist


def leave_group() -> None:
    """Leave the process group; send nothing after this.

    torch ends the threads of a gloo group when the last reference to it goes, and waits for them while it holds
    Python's lock. A thread that frees its last tensor needs that lock, so sometimes both would wait for ever. This
    reference keeps the group until the process ends.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
    dist.destroy_process_group()

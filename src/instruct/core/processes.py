"""How a process leaves the others that torchrun started with it."""

import ctypes

import torch.distributed as dist


def leave_group() -> None:
    """Leave the process group; nothing may be sent after it.

    torch ends the threads of a gloo group when the last reference to it goes, and waits for them while it holds
    Python's lock. A thread that frees its last tensor needs that lock, so that now and then neither would go on. This
    reference keeps the group until the process ends.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
    dist.destroy_process_group()

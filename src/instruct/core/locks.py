"""Locks between processes: the second writer of a file waits for the first, or is refused."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from instruct.core.errors import InstructError

LOOK_S = 0.1


@contextmanager
def hold(lock: Path, what: str, *, wait_s: float = float("inf")) -> Iterator[None]:
    """Keep other processes from writing `what` while the block runs; a killed process releases `lock` too.

    Prints a line if it must wait. Raises InstructError after `wait_s` seconds.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = _wait_for(lock, what, wait_s)
    except OSError as error:
        raise InstructError(f"{lock}: cannot be locked ({error.strerror}); check the folder") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


def _wait_for(lock: Path, what: str, wait_s: float) -> int:
    """The open lock file, once this process holds it."""
    until = time.monotonic() + wait_s
    said = False
    while (held := _take(lock)) is None:
        if time.monotonic() > until:
            raise InstructError(f"{what}: another process is still writing it; wait until it ends, or stop it")
        if not said:
            print(f"{what}: another process is writing it; waiting until it ends", file=sys.stderr, flush=True)
        said = True
        time.sleep(LOOK_S)
    return held


def _take(lock: Path) -> int | None:
    """The open lock file, or None if another process holds it."""
    opened = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(opened).st_ino == os.stat(lock).st_ino:
            return opened  # not a file that its holder removed after we opened it
    os.close(opened)
    return None

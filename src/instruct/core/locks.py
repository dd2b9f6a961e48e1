"""Locks between processes: the second writer of a file waits for the first, or is refused."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from instruct.core.errors import InstructError

try:
    import fcntl
except ImportError:  # Windows: what takes no lock works there
    fcntl = None  # type: ignore[assignment]

LOOK_S = 0.1


def lock(descriptor: int) -> None:
    """Lock an open file until it is closed.

    Raises BlockingIOError if another process holds the lock, and InstructError if this system has no such locks.
    """
    if fcntl is None:
        raise InstructError("this system cannot lock files, which keeps runs apart; use Linux, macOS or WSL")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def hold(path: Path, what: str, *, wait_s: float = float("inf")) -> Iterator[None]:
    """Keep other processes from writing `what` while the block runs; a killed process releases `path` too.

    Prints a line if it must wait. Raises InstructError after `wait_s` seconds.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _wait_for(path, what, wait_s)
    except OSError as error:
        raise InstructError(f"{path}: cannot be locked ({error.strerror}); check the folder") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(held)


def _wait_for(path: Path, what: str, wait_s: float) -> int:
    """The open lock file, once this process holds it."""
    until = time.monotonic() + wait_s
    said = False
    while (held := _take(path)) is None:
        if time.monotonic() > until:
            raise InstructError(f"{what}: another process is still writing it; wait until it ends, or stop it")
        if not said:
            print(f"{what}: another process is writing it; waiting until it ends", file=sys.stderr, flush=True)
        said = True
        time.sleep(LOOK_S)
    return held


def _take(path: Path) -> int | None:
    """The open lock file, or None if another process holds it."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    ours = False
    try:
        with suppress(BlockingIOError, FileNotFoundError):
            lock(opened)
            ours = os.fstat(opened).st_ino == os.stat(path).st_ino  # not a file that its holder removed meanwhile
    finally:
        if not ours:
            os.close(opened)
    return opened if ours else None

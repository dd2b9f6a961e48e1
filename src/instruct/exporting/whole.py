"""A folder that appears complete or not at all: a failure leaves no partial folder and no change.

A killed process cannot tidy up, so the next export into the same place does it. An export that still runs holds a lock
in its partial folder.
"""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TextIO

from instruct.core.errors import InstructError
from instruct.core.locks import hold, lock

PROOF = "proof.json"
"""Every export has this file; an export never replaces a folder without it."""
RUNS = "instruct-export.lock"
"""In every partial folder: locked while its export runs, with the name of the folder to be."""


@contextmanager
def whole_folder(out: Path, needed: int) -> Iterator[Path]:
    """A temporary folder that becomes `out` once it is complete; replaces an older export of that name.

    `needed` bytes must be free. Raises InstructError if `out` is not an export, and for disk errors.
    """
    if out.exists() and not (out / PROOF).is_file():
        raise InstructError(f"{out}: exists and is not an export, so it was not replaced; give another --out")
    made = out.parent / f".{out.name}.{token_hex(4)}.part"
    try:
        remove_leftovers(out.parent)
        free = shutil.disk_usage(out.parent).free
        if free < needed:
            raise InstructError(f"{out}: needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; free some space")
        with _partial(made, out):
            part = made / "new"
            part.mkdir()
            yield part
            if out.exists():
                out.rename(made / "old")
            part.rename(out)
    except OSError as error:
        raise InstructError(
            f"{out}: cannot be written ({error.strerror or error}); no files were left, free some space"
        ) from error
    except InstructError as error:
        if str(made) not in str(error):
            raise
        raise type(error)(str(error).replace(f"{made}/new", str(out))) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the partial folders of exports that no longer run; creates `folder` if it is missing."""
    with _creating(folder):
        for runs in sorted(folder.glob(f".*.part/{RUNS}")):
            with suppress(OSError), runs.open("r+", encoding="utf-8") as file:  # it runs, or it has just ended
                lock(file.fileno())
                _clear(runs.parent, folder / file.read())


@contextmanager
def _partial(made: Path, out: Path) -> Iterator[None]:
    """The folder `made`, locked while the block runs and removed after it."""
    runs: TextIO | None = None
    try:
        with _creating(made.parent):  # until it is locked it looks like a leftover
            made.mkdir()
            runs = (made / RUNS).open("w", encoding="utf-8")
            lock(runs.fileno())
        runs.write(out.name)
        runs.flush()
        yield
    finally:
        _clear(made, out)
        if runs:
            runs.close()


def _creating(folder: Path) -> AbstractContextManager[None]:
    """Keep other exports from looking for leftovers in a folder, or from creating a partial one."""
    return hold(folder / ".instruct-export.lock", str(folder))


def _clear(made: Path, out: Path) -> None:
    """Remove a partial folder, the lock last; an older export that was about to be replaced goes back."""
    if (made / "old").exists() and not out.exists():
        (made / "old").rename(out)
    for part in ("new", "old"):
        shutil.rmtree(made / part, ignore_errors=True)
    shutil.rmtree(made, ignore_errors=True)

"""A folder that appears whole or not at all: what fails on the way leaves neither a part nor a change."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from instruct.core.errors import InstructError

PROOF = "proof.json"
"""Every export holds this file; a folder without it is not one that an export may replace."""


@contextmanager
def whole_folder(out: Path, needed: int) -> Iterator[Path]:
    """A folder to write in, which takes the name `out` once all is there; an older export of that name is replaced.

    `needed` bytes must be free. Raises InstructError for a folder that is not an export, and for a disk that refuses.
    """
    if out.exists() and not (out / PROOF).is_file():
        raise InstructError(f"{out}: exists and is not an export, so it is not replaced; give another --out")
    made = ""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < needed:
            raise InstructError(f"{out}: needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; free some space")
        with TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as beside:
            made = str(Path(beside))  # as messages spell it
            part = Path(made) / "new"
            part.mkdir()
            yield part
            if out.exists():
                out.rename(Path(made) / "old")
            part.rename(out)
    except OSError as error:
        raise InstructError(
            f"{out}: cannot be written ({error.strerror or error}); nothing of it was left, free some space"
        ) from error
    except InstructError as error:
        if not made or made not in str(error):
            raise
        raise type(error)(str(error).replace(f"{made}/new", str(out))) from error

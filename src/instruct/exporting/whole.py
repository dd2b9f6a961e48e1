"""A folder that appears complete or not at all: a failure leaves no partial folder and no change."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from instruct.core.errors import InstructError

PROOF = "proof.json"
"""Every export has this file; an export never replaces a folder without it."""


@contextmanager
def whole_folder(out: Path, needed: int) -> Iterator[Path]:
    """A temporary folder that becomes `out` once it is complete; replaces an older export of that name.

    `needed` bytes must be free. Raises InstructError if `out` is not an export, and for disk errors.
    """
    if out.exists() and not (out / PROOF).is_file():
        raise InstructError(f"{out}: exists and is not an export, so it was not replaced; give another --out")
    made = ""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < needed:
            raise InstructError(f"{out}: needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; free some space")
        with TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as beside:
            made = str(Path(beside))  # as error messages spell it
            part = Path(made) / "new"
            part.mkdir()
            yield part
            if out.exists():
                out.rename(Path(made) / "old")
            part.rename(out)
    except OSError as error:
        raise InstructError(
            f"{out}: cannot be written ({error.strerror or error}); no files were left, free some space"
        ) from error
    except InstructError as error:
        if not made or made not in str(error):
            raise
        raise type(error)(str(error).replace(f"{made}/new", str(out))) from error

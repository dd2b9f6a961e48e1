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
from instruct.core.files import read_json, sha256_of
from instruct.core.locks import hold, lock
from instruct.core.parsing import mapping
from instruct.results.runs import EVALUATE, SCORES

PROOF = "proof.json"
"""Every export has this file; an export never replaces a folder without it."""
CHECKPOINT, EXPORT = "checkpoint", "export"
ANSWERS = {name: f"answers/{name}.json" for name in (CHECKPOINT, EXPORT)}
"""The answers of both systems to the test records of the check."""
RUNS = "instruct-export.lock"
"""In every partial folder: locked while its export runs, with the name of the folder to be."""
_NAMED = 3  # files of others that an error names


@contextmanager
def whole_folder(out: Path, needed: int) -> Iterator[Path]:
    """A temporary folder that becomes `out` once it is complete; replaces an older export of that name.

    `needed` bytes must be free. Raises InstructError if `out` is not an export or holds something else too, and for
    disk errors.
    """
    out = out.resolve() if out.is_symlink() else out
    require_replaceable(out)
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
            require_replaceable(out)  # again, because a check takes minutes
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


def require_replaceable(out: Path) -> None:
    """Raise InstructError if replacing a folder would lose something that an export did not write.

    Its files are those that its proof.json lists, as long as their sha256 is the listed one, and the check's.
    """
    if not out.exists():
        return
    if not (out / PROOF).is_file():
        raise InstructError(f"{out}: exists and is not an export, so it was not replaced; give another --out")
    listed = mapping(mapping(read_json(out / PROOF)).get("files"))
    results = {PROOF, EVALUATE, SCORES, *ANSWERS.values()}
    others = []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if name in results or (path.is_dir() and not path.is_symlink()):
            continue
        if name not in listed:
            others.append(name)
        elif not path.is_file() or sha256_of(path) != mapping(listed[name]).get("sha256"):
            others.append(f"a changed {name}")
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise InstructError(
            f"{out}: has {', '.join(others[:_NAMED])}{more}, which the export did not write; move them or give another "
            "--out"
        )


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

"""All output to the terminal goes through here; also the environment for calls of DVC."""

import os
import sys
from io import TextIOWrapper
from typing import Any, TextIO, cast

import platformdirs

from instruct.core.shown import printable_lines

SITE_CACHE_VARIABLE = "DVC_SITE_CACHE_DIR"


class _Shown:
    """A stream that shows control characters as escapes and passes everything else on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(
            printable_lines("" + text)
        )  # bytes raise a TypeError, which tells click that this is a text stream
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_output() -> None:
    """Let no foreign text control the terminal: everything printed or logged goes through `printable`.

    Characters that the terminal cannot encode are printed as question marks. Standard error stays unchanged for
    progress bars; `print_error` escapes errors.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if sys.stdout is not None:  # it may be closed, as by `>&-`
        sys.stdout = cast(TextIO, _Shown(sys.stdout))


def print_error(text: object) -> None:
    """Print an error to standard error."""
    print(printable_lines(text), file=sys.stderr)


def make_site_cache_private() -> None:
    """Set DVC's site cache to a folder in the user's home, unless the environment names one.

    DVC's default is /var/tmp/dvc, which anyone on the machine can write to, and DVC unpickles files there: another user
    could run commands as this one. DVC makes its folder writable by all, so a private folder encloses it. `.dvc/config`
    cannot help: DVC takes `core.site_cache_dir` from it literally, without `~` and relative to the current folder, and
    a `.dvc/...` in a subfolder would look like a repository.
    """
    if os.environ.get(SITE_CACHE_VARIABLE):
        return
    folder = platformdirs.user_cache_path("instruct") / "dvc"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError:
        return  # a read-only home: DVC reports it if it needs the folder
    os.environ[SITE_CACHE_VARIABLE] = str(folder)

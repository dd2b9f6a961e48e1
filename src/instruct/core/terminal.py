"""The one way to the terminal, and what our commands set before they call DVC."""

import os
import sys
from typing import Any, TextIO, cast

import platformdirs

from instruct.core.shown import printable_lines

SITE_CACHE_VARIABLE = "DVC_SITE_CACHE_DIR"


class _Shown:
    """A stream that shows control characters as escapes; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable_lines("" + text))  # bytes are a TypeError, by which click knows a text stream
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_output() -> None:
    """Let no text that others wrote steer the terminal: all that is printed or logged goes through `printable`.

    Standard error stays as it is for progress bars; `print_error` is the way there.
    """
    sys.stdout = cast(TextIO, _Shown(sys.stdout))


def print_error(text: object) -> None:
    """Print an error to standard error."""
    print(printable_lines(text), file=sys.stderr)


def make_site_cache_private() -> None:
    """Name a folder of the user's own as DVC's site cache, unless the environment names one.

    DVC's default is /var/tmp/dvc, which anyone on the machine may write to, and DVC unpickles what it finds there: so
    another user could run commands as this one. DVC makes its folder writable by all too, hence the closed one around
    it. `.dvc/config` cannot help: DVC takes `core.site_cache_dir` from there as it is, without `~` and relative to
    the folder that it is called in, and a `.dvc/...` in a subfolder would pass for a repository.
    """
    if os.environ.get(SITE_CACHE_VARIABLE):
        return
    folder = platformdirs.user_cache_path("instruct") / "dvc"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError:
        return  # a home that cannot be written to: DVC says so itself if it needs the folder
    os.environ[SITE_CACHE_VARIABLE] = str(folder)

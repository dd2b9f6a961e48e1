"""What helps `ask` and `chat` to an early first token, while torch's import takes one core a second."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instruct.serving.checked import checked_meanwhile
from instruct.serving.systems import PLACES, System, open_system


@contextmanager
def preparing(name: str) -> Iterator[None]:
    """Import torch within it: meanwhile the system's weights are read from disk and its tokenizer is checked."""
    place = PLACES[name]
    with without_garbage():
        if place is None:
            yield
            return
        _read_ahead(place)
        with checked_meanwhile(place):
            yield


def open_alone(name: str) -> System:
    """Load a system that answers one question at a time, as soon as possible."""
    with without_garbage():
        return open_system(name, packed=False, digest=False)


def _read_ahead(place: Path) -> None:
    if hasattr(os, "posix_fadvise"):
        for path in place.glob("*.safetensors"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


@contextmanager
def without_garbage() -> Iterator[None]:
    """Look for no garbage within it, and never among what it makes: torch's 180,000 objects are all in use.

    Python would look through them several times before the first token, and again at the end.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()

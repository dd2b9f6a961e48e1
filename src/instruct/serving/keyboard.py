"""A person at a terminal: lines with editing, and Ctrl-C that stops an answer, not the conversation."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PROMPT = "> "


def typed_lines(ask: Callable[[str], str]) -> Iterator[str]:
    """The lines that a person types, until Ctrl-D; Ctrl-C only leaves a line."""
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - makes `input` edit and remember lines
    prompt = PROMPT
    while True:
        try:
            line = ask(prompt)
        except EOFError:
            print()  # what comes next begins a line
            return
        except KeyboardInterrupt:
            prompt = f"\nCtrl-D or /quit ends the chat\n{PROMPT}"
            continue
        prompt = PROMPT
        yield line


@contextmanager
def ctrl_c_stops() -> Iterator[Callable[[], bool]]:
    """Gives a question: whether Ctrl-C came. The first one does nothing else, a second one ends the command."""
    came, before = threading.Event(), signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield came.is_set
        return

    def note(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        came.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, before)

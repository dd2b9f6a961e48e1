"""Progress of long work: a bar on a terminal, a line every few seconds in a log."""

import logging
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_S = 15.0  # between lines without a terminal


class Progress:
    """Counts finished work, with rate and time left; work from an earlier run counts as done but not in the rate.

    `shown=False` keeps it silent, for processes other than the main process.
    """

    def __init__(self, total: int | None, unit: str, *, done: int = 0, shown: bool = True) -> None:
        self.total, self.unit, self.shown = total, unit, shown
        self.done, self.failed, self._known = done, 0, done
        self._bar = tqdm(total=total, unit=unit, initial=done, smoothing=0, disable=None if shown else True)
        self._begun = self._logged = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def known(self, *, problem: bool = False) -> None:
        """Count one that already exists, such as a cached reply."""
        self._known += 1
        if not self._bar.disable:
            self._bar.initial += 1
        self._count(1, problem)

    def add(self, count: int = 1, *, problem: bool = False, note: str = "") -> None:
        """Count `count` more; `note`, such as the loss, ends the line."""
        self._count(count, problem)
        if note and not self._bar.disable:
            self._bar.set_postfix_str(note, refresh=False)
        now = time.monotonic()
        if self.shown and self._bar.disable and now - self._logged >= LOG_S:
            self._logged = now
            log.info(self.line(now - self._begun) + (f", {note}" if note else ""))

    def line(self, seconds: float) -> str:
        new = self.done - self._known
        rate = new / seconds if seconds > 0 else 0.0
        of = f" of {self.total}" if self.total is not None else ""
        parts = [f"{self.done}{of} {self.unit}s", f"{rate:.2g} a second"]
        if self.total is not None and rate:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        if self._known:
            parts.append(f"{self._known} known before")
        if self.failed:
            parts.append(f"{self.failed} with a problem")
        return ", ".join(parts)

    def close(self) -> None:
        """Close the bar and leave it on the screen."""
        self._bar.close()

    def _count(self, count: int, problem: bool) -> None:
        self.done += count
        self.failed += count if problem else 0
        if not self._bar.disable:
            self._bar.update(count)
            if problem:
                self._bar.set_postfix_str(f"{self.failed} with a problem", refresh=False)

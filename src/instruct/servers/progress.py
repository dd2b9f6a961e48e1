"""How far many requests have come: a bar on a terminal, a line now and then in a log."""

import logging
import time

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_S = 30.0  # between lines where there is no terminal


class Progress:
    """Counts what is done, with rate and time left; what the cache knew does not count into the rate."""

    def __init__(self, total: int | None, unit: str) -> None:
        self.total, self.unit = total, unit
        self.done = self.failed = self._cached = 0
        self._bar = tqdm(total=total, unit=unit, smoothing=0, disable=None)
        self._begun = self._logged = time.monotonic()

    def known(self, *, problem: bool) -> None:
        """Book one whose reply is there already."""
        self._cached += 1
        if not self._bar.disable:
            self._bar.initial += 1
        self._book(1, problem)

    def answered(self, count: int, *, problem: bool) -> None:
        """Book `count` requests that the server answered with one reply."""
        self._book(count, problem)
        now = time.monotonic()
        if self._bar.disable and now - self._logged >= LOG_S:
            self._logged = now
            log.info(self.line(now - self._begun))

    def line(self, seconds: float) -> str:
        """Where it stands after `seconds`, in words."""
        asked = self.done - self._cached
        rate = asked / seconds if seconds > 0 else 0.0
        of = f" of {self.total}" if self.total is not None else ""
        parts = [f"{self.done}{of} {self.unit}s", f"{rate:.2g} a second"]
        if self.total is not None and rate:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        if self._cached:
            parts.append(f"{self._cached} from the cache")
        if self.failed:
            parts.append(f"{self.failed} with a problem")
        return ", ".join(parts)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def _book(self, count: int, problem: bool) -> None:
        self.done += count
        self.failed += count if problem else 0
        if not self._bar.disable:
            self._bar.update(count)
            if problem:
                self._bar.set_postfix_str(f"{self.failed} with a problem", refresh=False)

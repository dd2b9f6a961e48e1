"""Tokens to text that may be shown: whole characters only, and nothing that could start a stop string."""

import codecs
from collections.abc import Sequence

from instruct.generation.rows import StopReason, cut_at
from instruct.text.tokenizer import Tokenizer


class TextStream:
    """The growing text of an answer; text that was given out never changes.

    The pieces together equal the text of generation without streaming; with `strip`, without surrounding white space.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str], *, strip: bool) -> None:
        self._tokenizer, self._stops, self._strip = tokenizer, tuple(stop_strings), strip
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._seen, self._given = "", 0

    @property
    def text(self) -> str:
        """All text given out so far."""
        return (self._seen.lstrip() if self._strip else self._seen)[: self._given]

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is final after these tokens."""
        self.push_only(tokens)
        certain = cut_at(self._seen, self._stops)
        certain = certain[: len(certain) - held_back(certain, self._stops)]
        return self._give(certain)

    def push_only(self, tokens: Sequence[int]) -> None:
        """Take in tokens without giving out text yet."""
        encoding = self._tokenizer.encoding
        self._add(self._decoder.decode(b"".join(map(encoding.decode_single_token_bytes, tokens))))

    def finish(self, reason: StopReason | None) -> str:
        """The rest, once the answer has ended."""
        self._add(self._decoder.decode(b"", final=True))
        return self._give(cut_at(self._seen, self._stops) if reason == "stop_string" else self._seen)

    def _add(self, text: str) -> None:
        self._seen += text

    def _give(self, certain: str) -> str:
        """The new part; a stop string may begin with white space, so it is looked for before any is stripped."""
        new = (certain.strip() if self._strip else certain)[self._given :]
        self._given += len(new)
        return new


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters are, or may start, a stop string.

    >>> held_back("a ##", ["### End"]), held_back("a # b", ["### End"]), held_back("a ### End", ["### End"])
    (2, 0, 7)
    """
    longest = max(map(len, stops), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0

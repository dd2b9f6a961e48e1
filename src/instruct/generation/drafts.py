"""Drafts of an answer's next tokens, for rows of a step that would otherwise only pad it.

Prompt lookup decoding (Saxena, 2023), a form of speculative decoding (Leviathan et al., 2023): an answer often repeats
its prompt or itself, so what followed the newest tokens before may follow again. A step that runs the newest token
with its draft gives the logits after each, and a right draft saves steps. It changes no answer: every token is chosen
by the model's logits, and a draft only says for which texts they are ready.
"""

from collections.abc import Sequence

LONGEST = 3  # tokens that must have occurred before; one is enough where more have not


class Lookup:
    """What followed each sequence of up to LONGEST tokens when it occurred last."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._text = list[int]()

    def read(self, text: Sequence[int]) -> None:
        """Read what is new in a text that begins with all that was read before."""
        for token in text[len(self._text) :]:
            for size in range(1, min(LONGEST, len(self._text)) + 1):
                self._after[tuple(self._text[-size:])] = token
            self._text.append(token)

    def draft(self, most: int) -> list[int]:
        """Up to so many tokens that may come next; none where the newest has not occurred before."""
        newest, drafted = self._text[-LONGEST:], list[int]()
        while len(drafted) < most:
            sizes = range(len(newest), 0, -1)
            found = next((self._after[end] for size in sizes if (end := tuple(newest[-size:])) in self._after), None)
            if found is None:
                break
            drafted.append(found)
            newest = [*newest, found][-LONGEST:]
        return drafted


def deal(drafts: Sequence[Sequence[int]], spare: int) -> list[Sequence[int]]:
    """The beginnings of the drafts with `spare` tokens in all: the first of each, then the second of each."""
    kept = [0] * len(drafts)
    for place in range(max(map(len, drafts), default=0)):
        for one, draft in enumerate(drafts):
            if place < len(draft) and sum(kept) < spare:
                kept[one] += 1
    return [draft[:count] for draft, count in zip(drafts, kept, strict=True)]

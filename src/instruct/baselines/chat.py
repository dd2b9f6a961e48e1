"""A backbone's own chat template in Jinja.

The template never sees a record: it is rendered once with a placeholder for each text. So the markers of a turn become
special tokens, and the same characters in a record stay text.
"""

import re
from collections.abc import Iterator, Sequence

from jinja2 import TemplateError

from instruct.core.errors import BackboneError
from instruct.core.records import Example, Turn
from instruct.model.chat_template import ChatTemplate
from instruct.text.prompts import Piece
from instruct.text.tokenizer import Tokenizer

_MARK = re.compile("\ue000(\\d+)\ue001")  # characters of private use, which no template writes
_REMEDY = "take chat and few-shot out of baseline.systems"


class OwnChat:
    """Questions as the last turns of a chat in which `shots` have been asked and answered.

    `stop_strings` are the special tokens that the template writes.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, shots: Sequence[Example] = ()) -> None:
        """Raises BackboneError for a template that cannot be rendered, or that leaves a text out."""
        self._template = template
        self.shots = tuple(shots)
        self._earlier = [turn for one in shots for turn in one.turns]
        self._end = tokenizer.encoding.decode([tokenizer.eos_id])
        special = sorted(tokenizer.encoding.special_tokens_set, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, special))})")
        self._rendered: dict[tuple[int, bool], list[str]] = {}
        own = [piece for part in self._parts(1, system=False)[::2] for piece in self._pieces_of(part)]
        self.stop_strings = tuple(sorted({piece.text for piece in own if piece.kind == "marker"}))

    @property
    def prefix_pieces(self) -> list[Piece]:
        """The start of every prompt whose chat has no system prompt of its own.

        It ends with a special token, if there is one: text behind it may become one token with the question's first.
        """
        pieces = self._fill(self._parts(1, system=False)[:-2], self._texts([Turn("")], ""))
        markers = [place for place, piece in enumerate(pieces, start=1) if piece.kind == "marker"]
        return pieces[: markers[-1]] if markers else pieces

    def prompt(self, turns: Sequence[Turn], system: str = "") -> list[Piece]:
        """A chat after the shots, up to the start of its last response."""
        return self._fill(self._parts(len(turns), system=bool(system)), self._texts(turns, system))

    def _texts(self, turns: Sequence[Turn], system: str) -> list[str]:
        """The texts of a chat, in order, without the last answer."""
        said = [text for one in (*self._earlier, *turns) for text in (one.question, one.output)][:-1]
        return [system, *said] if system else said

    def _parts(self, turns: int, *, system: bool) -> list[str]:
        """The rendered template as text, number, text, number, ..., text; a number is the place of what is said."""
        key = (turns, system)
        if key not in self._rendered:
            roles = ["system"] * system + ["user", "assistant"] * (len(self._earlier) + turns - 1) + ["user"]
            self._rendered[key] = parts = _MARK.split(_render(self._template, roles, self._end))
            if [int(mark) for mark in parts[1::2]] != list(range(len(roles))):
                raise BackboneError(f"the backbone's chat template leaves turns out or repeats them; {_REMEDY}")
        return self._rendered[key]

    def _fill(self, parts: Sequence[str], texts: Sequence[str]) -> list[Piece]:
        pieces: list[Piece] = []
        for place, part in enumerate(parts):
            pieces += [Piece(texts[int(part)])] if place % 2 else self._pieces_of(part)
        return pieces

    def _pieces_of(self, part: str) -> Iterator[Piece]:
        """A fixed text of the template, split at its special tokens."""
        for place, text in enumerate(self._special.split(part)):
            if text:
                yield Piece(text, "marker" if place % 2 else "text")


def _render(template: ChatTemplate, roles: Sequence[str], end: str) -> str:
    """The template's text for a chat of these roles, in which each text is a mark with its number."""
    messages = [{"role": role, "content": f"\ue000{place}\ue001"} for place, role in enumerate(roles)]
    try:
        return template.render(messages, end)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise BackboneError(f"the backbone's chat template cannot be rendered ({error}); {_REMEDY}") from None

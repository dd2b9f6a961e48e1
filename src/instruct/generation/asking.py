"""What generation needs of a template, so that a backbone's own one can be asked with too."""

from collections.abc import Sequence
from typing import Protocol

from instruct.core.records import Turn
from instruct.text.prompts import Piece


class Asking(Protocol):
    """How a chat becomes a prompt: a Template, or another with the same three."""

    @property
    def prefix_pieces(self) -> Sequence[Piece]:
        """What the prompt of every chat begins with that brings no system prompt of its own."""

    @property
    def stop_strings(self) -> Sequence[str]:
        """Texts before which a response ends."""

    def prompt(self, turns: Sequence[Turn], system: str = "") -> Sequence[Piece]:
        """A chat up to where the response to its last turn begins."""

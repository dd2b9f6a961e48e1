"""The interface of a template for generation, which a backbone's own chat template also has."""

from collections.abc import Sequence
from typing import Protocol

from instruct.core.records import Turn
from instruct.text.prompts import Piece


class Asking(Protocol):
    """How a chat becomes a prompt: a Template, or another class with the same three members."""

    @property
    def prefix_pieces(self) -> Sequence[Piece]:
        """The start of every prompt whose chat has no system prompt of its own."""

    @property
    def stop_strings(self) -> Sequence[str]:
        """Texts that end a response."""

    def prompt(self, turns: Sequence[Turn], system: str = "") -> Sequence[Piece]:
        """A chat up to the start of its last response."""

"""The few-shot examples before every question: their choice, how many fit, and their plain-text template."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from rapidfuzz import fuzz, process

from instruct.baselines.settings import BaselineParams
from instruct.core.records import Example, Turn, last_question
from instruct.text.prompts import Piece, Template, as_text

RESEMBLES = 90.0  # rapidfuzz's ratio from which a training question would give a test question away


def choose_shots(train: Sequence[Example], test: Sequence[Example], params: BaselineParams) -> list[Example]:
    """At most `shots` training examples from different groups, none similar to a test record.

    An example's rank depends only on the seed and its id, so other records do not change it.
    """
    questions = [last_question(one) for one in test]
    chosen: dict[str, Example] = {}
    for one in sorted(train, key=lambda one: sha256(f"{params.seed} {one.id}".encode()).digest()):
        if len(chosen) == params.shots:
            break
        group = one.group or one.id
        if group not in chosen:
            resembled = process.extractOne(last_question(one), questions, scorer=fuzz.ratio, score_cutoff=RESEMBLES)
            if not resembled:
                chosen[group] = one
    return list(chosen.values())


def most_that_fit(count: int, longest: Callable[[int], int], room: int) -> int:
    """The largest number of shots up to `count` with which the `longest` prompt has at most `room` tokens, or 0."""
    return next((number for number in range(count, 0, -1) if longest(number) <= room), 0)


@dataclass(frozen=True, kw_only=True)
class ShotsAsText:
    """A template with answered examples before each question, for a model that knows no turns.

    What opens the template comes once, so that what follows an answer is always the header of the next question, at
    which generation stops.
    """

    template: Template
    shots: Sequence[Example]

    @property
    def prefix_pieces(self) -> list[Piece]:
        """The start of every prompt without a system prompt of its own: the examples, up to the question."""
        return [Piece(self._before_question(""))]

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return self.template.stop_strings

    def prompt(self, turns: Sequence[Turn], system: str = "") -> list[Piece]:
        """A chat after the examples, up to the start of its last response."""
        own = system if self.template.before_system else ""  # else it is in the first instruction
        start = as_text(self.template.opening(own)) + self.template.before_instruction
        chat = as_text(self.template.prompt(turns, system))
        return [Piece(self._before_question(own)), Piece(chat.removeprefix(start))]

    def _before_question(self, system: str) -> str:
        header = self.template.before_instruction
        end = self.template.turn_end + ("" if header.startswith("\n") else "\n")
        earlier = [turn for one in self.shots for turn in one.turns]
        turns = [header + self._question(one.instruction, one.input) + one.output + end for one in earlier]
        return as_text(self.template.opening(system)) + "".join(turns) + header

    def _question(self, instruction: str, input: str) -> str:
        return self.template.render(instruction, input).removeprefix(self.template.prefix)

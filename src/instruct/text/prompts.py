"""The prompt templates, each defined once: training, generation, judging and the command line use them.

A prompt ends with the response header, so the model never has to produce it, and the response is everything that
follows. No code searches a text for a marker.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from instruct.core.params import require
from instruct.core.records import Turn

TemplateName = Literal["alpaca", "phi3", "chatml"]
DEFAULT = "default"


class Piece(NamedTuple):
    """A part of a rendered chat, so that user text can never become a special token.

    Neighbouring texts are tokenised as one text. A `marker` is a special token if the tokenizer has it, and text if
    not. An `answer` is tokenised separately, as a model generates it; `end` is the token that ends it.
    """

    text: str
    kind: Literal["text", "marker", "answer", "end"] = "text"


@dataclass(frozen=True, kw_only=True)
class Template:
    """The fixed texts around an instruction and its input.

    A response ends before any of `stop_strings`, which are headers that only an invented next turn would contain.
    `markers` are special tokens if the tokenizer has them, and `turn_end` then ends a response; otherwise the
    tokenizer's own end token does. A template with `before_system` has a system prompt, which defaults to `system`;
    "" leaves the block out.
    """

    preamble: str
    before_instruction: str
    before_input: str
    before_response: str
    stop_strings: tuple[str, ...]
    between_turns: str = ""
    before_system: str = ""
    system: str = ""
    after_system: str = ""
    markers: tuple[str, ...] = ()
    turn_end: str = ""

    @property
    def prefix(self) -> str:
        """The text at the start of every prompt."""
        return as_text(self.prefix_pieces)

    @property
    def prefix_pieces(self) -> list[Piece]:
        """The start of every prompt whose chat has no system prompt of its own."""
        return [*self.opening(""), *self._parts(self.before_instruction)]

    def render(self, instruction: str, input: str = "") -> str:
        """The prompt up to the start of the response, as text; an empty `input` leaves out its block."""
        return as_text(self.prompt([Turn(instruction, input)]))

    def task(self, turns: Sequence[Turn], system: str = "") -> str:
        """The chat before its last answer, as text, without the response header."""
        return as_text(self.prompt(turns, system)).removesuffix(self.before_response)

    def prompt(self, turns: Sequence[Turn], system: str = "") -> list[Piece]:
        """A chat up to the start of its last response."""
        return self.chat(turns, system)[:-2]

    def chat(self, turns: Sequence[Turn], system: str = "") -> list[Piece]:
        """A chat with all its answers, each with its end token.

        If the template has no system prompt, that prompt becomes the first instruction, and the question its input.
        """
        if system and not self.before_system:
            asked = "\n\n".join(filter(None, (turns[0].instruction, turns[0].input)))
            turns, system = [Turn(system, asked, turns[0].output), *turns[1:]], ""
        pieces = self.opening(system)
        for place, turn in enumerate(turns):
            pieces += self._parts(self.between_turns * bool(place) + self.before_instruction)
            pieces.append(Piece(turn.instruction))
            if turn.input:
                pieces += [*self._parts(self.before_input), Piece(turn.input)]
            pieces += self._parts(self.before_response)
            pieces += [Piece(turn.output, "answer"), Piece(self.turn_end, "end")]
        return pieces

    def opening(self, system: str) -> list[Piece]:
        """What comes before the first instruction of a chat with this system prompt; "" is a chat without its own."""
        system = system or self.system
        if not (system and self.before_system):
            return self._parts(self.preamble)
        return [*self._parts(self.before_system), Piece(system), *self._parts(self.after_system + self.preamble)]

    def _parts(self, text: str) -> list[Piece]:
        """A fixed text of the template, split at its markers."""
        if not self.markers:
            return [Piece(text)] if text else []
        parts = re.split(f"({'|'.join(map(re.escape, self.markers))})", text)
        return [Piece(part, "marker" if part in self.markers else "text") for part in parts if part]


def as_text(pieces: Sequence[Piece]) -> str:
    """Rendered pieces as one text, for people and judges to read."""
    return "".join(piece.text for piece in pieces)


TEMPLATES: Mapping[TemplateName, Template] = {
    # Stanford Alpaca (Taori et al., 2023), with the same preamble with and without an input, as in the book.
    "alpaca": Template(
        preamble=(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        ),
        before_instruction="\n\n### Instruction:\n",
        before_input="\n\n### Input:\n",
        before_response="\n\n### Response:\n",
        stop_strings=("### Instruction:", "### Input:", "### Response:"),
    ),
    # Phi-3 (Abdin et al., 2024): its markers as plain text, because the tokenizers do not have them as tokens.
    "phi3": Template(
        preamble="",
        before_instruction="<|user|>\n",
        before_input="\n",
        before_response="\n<|assistant|>\n",
        stop_strings=("<|user|>", "<|assistant|>"),
        between_turns="\n",
    ),
    # ChatML (OpenAI, 2023); a chat without a system prompt gets that of SmolLM2-Instruct (Allal et al., 2025).
    "chatml": Template(
        preamble="",
        before_instruction="<|im_start|>user\n",
        before_input="\n",
        before_response="<|im_end|>\n<|im_start|>assistant\n",
        stop_strings=("<|im_start|>", "<|im_end|>"),
        between_turns="\n",
        before_system="<|im_start|>system\n",
        system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        after_system="<|im_end|>\n",
        markers=("<|im_start|>", "<|im_end|>"),
        turn_end="<|im_end|>",
    ),
}


@dataclass(frozen=True, kw_only=True)
class PromptParams:
    """The section `prompt` of params.yaml.

    `system` is the system prompt of chats without one: `default` is the template's own, "" leaves it out.
    """

    template: TemplateName
    system: str

    def __post_init__(self) -> None:
        possible = self.system in ("", DEFAULT) or bool(TEMPLATES[self.template].before_system)
        require("system", self.system, possible, f'"" or default: {self.template} has no system prompt')

    @property
    def chosen(self) -> Template:
        """The template with the system prompt of the settings."""
        template = TEMPLATES[self.template]
        return template if self.system == DEFAULT else replace(template, system=self.system)

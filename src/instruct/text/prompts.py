"""The prompt templates, each defined once: training, generation, judging and the command line render from here.

A prompt ends with the response header, so a model that answers never has to produce it, and the response is
whatever follows. Nothing ever searches a text for a marker.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TemplateName = Literal["alpaca", "phi3"]


@dataclass(frozen=True, kw_only=True)
class PromptParams:
    """The section `prompt` of params.yaml."""

    template: TemplateName


@dataclass(frozen=True, kw_only=True)
class Template:
    """The fixed texts around an instruction and its input.

    A response ends before any of `stop_strings`, which are headers that only an invented next turn would bring.
    """

    preamble: str
    before_instruction: str
    before_input: str
    before_response: str
    stop_strings: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """What every prompt begins with."""
        return self.preamble + self.before_instruction

    def render(self, instruction: str, input: str = "") -> str:
        """The prompt up to where the response begins; an empty `input` leaves its block out."""
        middle = self.before_input + input if input else ""
        return self.preamble + self.before_instruction + instruction + middle + self.before_response


TEMPLATES: Mapping[TemplateName, Template] = {
    # Stanford Alpaca (Taori et al., 2023), with one preamble whether or not there is an input, as in the book.
    "alpaca": Template(
        preamble=(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        ),
        before_instruction="\n\n### Instruction:\n",
        before_input="\n\n### Input:\n",
        before_response="\n\n### Response:\n",
        stop_strings=("### Instruction:", "### Input:", "### Response:"),
    ),
    # Phi-3 (Abdin et al., 2024): its markers as plain text, since neither tokenizer knows them as tokens.
    "phi3": Template(
        preamble="",
        before_instruction="<|user|>\n",
        before_input="\n",
        before_response="\n<|assistant|>\n",
        stop_strings=("<|user|>", "<|assistant|>"),
    ),
}

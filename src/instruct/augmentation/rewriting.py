"""New records from old ones by a model: the answer in the passive voice, and reflection on instruction or answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from instruct.augmentation.draft import Draft, Outcome, Skipped
from instruct.core.json_stream import parse_json
from instruct.core.records import Example
from instruct.servers.base import Ask, Reply, Request

PASSIVE = (
    "Rewrite the text below in the passive voice. Keep its meaning, its tense and all its details, and add nothing. "
    'If it cannot be put into the passive voice, give it back as it is. Reply with JSON: {{"text": "..."}}\n\n'
    "Text:\n{output}"
)
REFLECT_INSTRUCTION = (
    "Below are an instruction and an answer to it. Think about how the instruction could be clearer, more specific "
    "and more demanding, so that a student learns more from it. Then write such an instruction, which can be answered "
    "without any other material, and its correct, short answer. "
    'Reply with JSON: {{"instruction": "...", "output": "..."}}\n\n'
    "Instruction:\n{instruction}\n\nAnswer:\n{output}"
)
REFLECT_ANSWER = (
    "Below are an instruction, its input where it has one, and an answer. Think about whether the answer is correct, "
    "complete, clear and in the form that was asked for. Then write the best answer, no longer than it has to be; "
    'give it back as it is if it needs no change. Reply with JSON: {{"output": "..."}}\n\n'
    "Instruction:\n{instruction}\n\nInput:\n{input}\n\nAnswer:\n{output}"
)
PASSIVE_WISH = "Write the answer in the passive voice."


@dataclass(frozen=True, kw_only=True)
class Rewriting:
    """One way to rewrite a record: which records it suits, the question, and the draft from the reply."""

    name: str
    suits: Callable[[Example], bool]
    question: str
    fields: tuple[str, ...]
    draft: Callable[[Example, dict[str, str]], Draft | None]

    def request(self, example: Example, max_tokens: int, seed: int) -> Request:
        """The request for one record; greedy, so that the same record gives the same reply."""
        text = self.question.format(instruction=example.instruction, input=example.input, output=example.output)
        properties = {name: {"type": "string"} for name in self.fields}
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(self.fields),
            "additionalProperties": False,
        }
        return Request(messages=(("user", text),), schema=schema, max_tokens=max_tokens, seed=seed)

    def read(self, example: Example, reply: Reply) -> Outcome:
        if reply.problem:
            return Skipped(reason="unanswered")
        texts = read_texts(reply.text, self.fields)
        if texts is None:
            return Skipped(reason="unparsed")
        return self.draft(example, texts) or Skipped(reason="unchanged")


def rewrite(rewriting: Rewriting, examples: Sequence[Example], ask: Ask, max_tokens: int, seed: int) -> list[Outcome]:
    """One outcome per example, in order."""
    suitable = [example for example in examples if rewriting.suits(example)]
    replies = ask([rewriting.request(example, max_tokens, seed) for example in suitable])
    outcomes: list[Outcome] = [Skipped(reason="unsuitable")] * (len(examples) - len(suitable))
    return outcomes + [rewriting.read(*pair) for pair in zip(suitable, replies, strict=True)]


def read_texts(reply: str, fields: Sequence[str]) -> dict[str, str] | None:
    """The texts under `fields` in a reply's JSON object, which other text may surround; None if one is missing.

    >>> read_texts('Sure! {"text": "It was done."}', ["text"])
    {'text': 'It was done.'}
    """
    begin, end = reply.find("{"), reply.rfind("}")
    try:
        value: Any = parse_json(reply[begin : end + 1]) if begin >= 0 else None
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    texts = {name: value[name].strip() for name in fields if isinstance(value.get(name), str)}
    return texts if len(texts) == len(fields) and all(texts.values()) else None


def _is_alone(example: Example) -> bool:
    """Whether the question can be understood without a system prompt or turns before it, which no question shows."""
    return not (example.system or example.history)


def _is_sentence(example: Example) -> bool:
    about_voice = any(word in example.instruction.lower() for word in ("passive", "active", "voice"))
    return not about_voice and len(example.output.split()) >= 4 and example.output.rstrip()[-1] in ".!"


def _passive(example: Example, texts: dict[str, str]) -> Draft | None:
    # The wish in the instruction keeps one prompt from having two answers.
    instruction = f"{example.instruction.rstrip()} {PASSIVE_WISH}"
    if texts["text"] == example.output.strip():
        return None
    return Draft(method="passive", parent=example, instruction=instruction, input=example.input, output=texts["text"])


def _new_instruction(example: Example, texts: dict[str, str]) -> Draft | None:
    if texts["instruction"] == example.instruction.strip():
        return None
    return Draft(
        method="reflect_instruction",
        parent=example,
        instruction=texts["instruction"],
        input="",
        output=texts["output"],
    )


def _new_answer(example: Example, texts: dict[str, str]) -> Draft | None:
    if texts["output"] == example.output.strip():
        return None
    return Draft(
        method="reflect_answer",
        parent=example,
        instruction=example.instruction,
        input=example.input,
        output=texts["output"],
        replaces=True,
    )


REWRITINGS = {
    rewriting.name: rewriting
    for rewriting in (
        Rewriting(name="passive", suits=_is_sentence, question=PASSIVE, fields=("text",), draft=_passive),
        Rewriting(
            name="reflect_instruction",
            suits=lambda example: _is_alone(example) and not example.input,
            question=REFLECT_INSTRUCTION,
            fields=("instruction", "output"),
            draft=_new_instruction,
        ),
        Rewriting(
            name="reflect_answer",
            suits=_is_alone,
            question=REFLECT_ANSWER,
            fields=("output",),
            draft=_new_answer,
        ),
    )
}

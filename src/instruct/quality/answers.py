"""Answers that teach nothing: empty, one word, the question repeated, the same words repeated."""

import re
import unicodedata
from collections.abc import Iterator

from instruct.core.records import Example
from instruct.core.repetition import find_repetition
from instruct.core.words import count_words
from instruct.quality.hits import Hit

# Placeholders of data sets for a missing answer. Words that can answer a question count only in brackets ("Null" is
# zero in German, "Todo" is all in Spanish), or not at all ("none", "undefined").
_PLACEHOLDER = re.compile(
    r"([<\[(]?\s*(no[ _]?(output|input|answer|response)|n/a)\s*[>\])]?|[<\[(]\s*(tbd|todo|null|nan)\s*[>\])])\.?"
)
# Scripts that write no blanks between words: Thai to Tibetan, Burmese, Khmer, Japanese and Chinese.
_NO_BLANKS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_LONG_ECHO = 4  # words; the answer may legitimately start with a shorter instruction


def find_in_answer(example: Example) -> Iterator[Hit]:
    """`empty_answer`, `one_word_answer`, `repeats_question` and `repetition`."""
    output = example.output.strip()
    if _says_nothing(output, example):
        yield Hit("empty_answer", "output", "says nothing")
        return
    if len(output.split(None, 1)) == 1 and not _NO_BLANKS.search(output):
        yield Hit("one_word_answer", "output", "is one word")
    elif repeated := find_repetition(output):
        yield Hit("repetition", "output", f"repeats {repeated}")
    if echoed := _echo(output, example):
        yield Hit("repeats_question", "output", echoed)


def _says_nothing(output: str, example: Example) -> bool:
    if output.isascii() and output.isalnum() and len(output) > 4:
        return False  # the common case, which skips the slower check of each character
    if len(output) < 24 and _PLACEHOLDER.fullmatch(output.lower()):
        asked = f"{example.instruction}\n{example.input}".lower()
        return output.strip("<[()]>. ").lower() not in asked
    if any(unicodedata.category(character)[0] in "LNS" for character in output[:80]):
        return False
    # A punctuation mark can answer a question about punctuation; invisible characters or dots alone answer nothing.
    visible = [c for c in output if unicodedata.category(c)[0] == "P"]
    return not visible or (set(visible) <= set(".…-–—_") and f" {output} " not in f" {example.instruction} ")


def _echo(output: str, example: Example) -> str:
    """The part of the question that an answer repeats; ignores blanks only, because case may be the task."""
    answer = " ".join(output.split())
    instruction, input_ = " ".join(example.instruction.split()), " ".join(example.input.split())
    if answer == instruction:
        return "is the instruction"
    if input_ and answer == input_:
        return "is the input"
    if input_ and answer in (f"{instruction} {input_}", f"{instruction}: {input_}"):
        return "is instruction and input"
    if count_words(instruction) >= _LONG_ECHO and answer.startswith(instruction):
        return "begins with the instruction"
    return ""

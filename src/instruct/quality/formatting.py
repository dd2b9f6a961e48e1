"""Text that breaks the format: markers of templates inside a record, and characters without a token."""

import re
from collections.abc import Iterator, Set

from instruct.core.errors import DataError
from instruct.core.records import Example
from instruct.quality.hits import TEXTS, Hit
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import Tokenizer

# Markers of our templates and of other common ones; in a record they would end or start a turn by
# mistake, or teach the model thoughts that were meant for nobody.
MARKERS = tuple(
    sorted(
        {marker for template in TEMPLATES.values() for marker in template.stop_strings}
        | {"<|endoftext|>", "<|eot_id|>", "<|end|>", "<|system|>", "[INST]", "[/INST]"}
        | {"<start_of_turn>", "<end_of_turn>", "### Human:", "### Assistant:", "<<SYS>>", "<think>", "</think>"}
    )
)
_MARKER = re.compile("|".join(map(re.escape, MARKERS)))
_RARE_IN_ASCII = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def find_markers(example: Example) -> Iterator[Hit]:
    """`template_markers`, at most one per field."""
    for name in TEXTS:
        text: str = getattr(example, name)
        if ("##" in text or "<" in text or "[" in text) and (found := _MARKER.search(text)):
            yield Hit("template_markers", name, f'holds "{found.group()}" at character {found.start()}')


def missing_bytes(tokenizer: Tokenizer) -> Set[int]:
    """The bytes without a token in the vocabulary."""
    encode = tokenizer.encoding.encode_single_token
    return frozenset(byte for byte in range(256) if encode(bytes([byte])) >= tokenizer.vocab_size)


def find_unspellable(example: Example, tokenizer: Tokenizer, missing: Set[int]) -> Iterator[Hit]:
    """`unspellable`: a character that training would refuse; tokenises only texts with a missing byte."""
    for name in TEXTS:
        text: str = getattr(example, name)
        if text.isascii() and not _RARE_IN_ASCII.search(text):
            continue
        if not missing.isdisjoint(text.encode("utf-8")):
            try:
                tokenizer.encode(text)
            except DataError as error:
                yield Hit("unspellable", name, str(error).split(";")[0])

"""The tokenizer of a GGUF file, from its pre-tokenizer's name and its tokens with their types."""

from collections.abc import Mapping

from instruct.text.merges import check_merges
from instruct.text.tokenizer import LayoutName, Tokenizer, make_tokenizer, token_bytes

# llama.cpp's names of pre-tokenizers. It leaves out Qwen's NFC, which the model was trained with.
LAYOUT_OF: Mapping[str, LayoutName] = {"gpt-2": "gpt2", "smollm": "smollm", "llama-bpe": "llama3", "qwen2": "qwen2"}
_NORMAL, _UNKNOWN, _CONTROL, _WRITTEN, _UNUSED = range(1, 6)


def tokenizer_of(
    spelled: list[str], types: list[int], pairs: list[str], *, layout: LayoutName, eos: int, begin: int | None
) -> Tokenizer:
    """Raises ValueError, KeyError or IndexError if the parts do not fit together."""
    if len(types) != len(spelled) or len(set(spelled)) != len(spelled):
        raise ValueError("tokens appear twice or have no type")
    # Entries that pad the vocabulary to the rows of the embedding are not tokens.
    types = types[: _used(types)]
    spelled = spelled[: len(types)]
    if not set(types) <= {_NORMAL, _UNKNOWN, _CONTROL, _WRITTEN}:
        raise ValueError("it has tokens of a type that is not known")
    special = {token: i for i, token in enumerate(spelled) if types[i] != _NORMAL}
    ends = {id_ for token, id_ in special.items() if types[id_] != _WRITTEN}
    if eos not in ends or not (begin is None or begin in ends):
        raise ValueError(f"the end token {eos}{'' if begin is None else f' or the first token {begin}'} is missing")
    tokens = [token.encode() if token in special else token_bytes(token) for token in spelled]
    ranks = {token: i for i, token in enumerate(tokens) if types[i] == _NORMAL}
    merges = [tuple(map(token_bytes, pair.split(" ", 1))) for pair in pairs]
    check_merges(ranks, ((left, right) for left, right in merges), ignore_merges=layout == "llama3")
    written = [token for token in special if types[special[token]] == _WRITTEN]
    first = None if begin is None else spelled[begin]
    return make_tokenizer(tokens, special, layout, eos, begin=first, written=written)


def _used(types: list[int]) -> int:
    """The number of tokens before the unused ones at the end."""
    return next((place + 1 for place in range(len(types) - 1, -1, -1) if types[place] != _UNUSED), 0)

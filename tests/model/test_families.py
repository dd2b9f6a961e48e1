"""Every family that is built like Llama, with random weights, against transformers' own implementation."""

import json
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from huggingface import LLAMA3, VARIANTS, as_ours, load_folder, random_ids, random_llama, random_qwen2, random_qwen3
from small_training import (
    FLOAT32,
    byte_tokenizer,
    lora_params,
    loss_and_gradients,
    make_batch,
    random_examples,
    train_params,
)
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from instruct.core.errors import CheckpointError
from instruct.generation import weights
from instruct.generation.engine import Engine
from instruct.generation.int8 import Int8Linear
from instruct.generation.weights import ReadyDecoder, make_ready
from instruct.model.checkpoint import empty_model, fill, load_checkpoint, random_model, save_checkpoint
from instruct.model.config_file import read_config
from instruct.model.decoder import attend_causally
from instruct.model.linear import PackedLinear, SameInput
from instruct.model.llama import LlamaConfig, RopeScaling
from instruct.model.lora import LoraLinear, add_lora, merge_lora
from instruct.training.loop import make_optimizer
from instruct.training.loss import LossModule, operations

pytestmark = pytest.mark.usefixtures("one_thread")
variants = pytest.mark.parametrize("variant", VARIANTS)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """What transformers writes of each variant, and the logits that it gives."""
    found = {}
    for name, make in VARIANTS.items():
        folder = tmp_path_factory.mktemp("stored") / name
        theirs = make()
        theirs.save_pretrained(folder)
        found[name] = folder, theirs
    return found


def logits(model, ids):
    with torch.no_grad():
        out = model(ids)
    return out if isinstance(out, torch.Tensor) else out.logits


@variants
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 17), (2, 64)])
def test_logits_equal_transformers(stored, variant, rows, length):
    folder, theirs = stored[variant]
    ids = random_ids(rows, length)
    ours = load_folder(folder)
    torch.testing.assert_close(logits(ours.double(), ids), logits(deepcopy(theirs).double(), ids), rtol=2e-5, atol=2e-5)


@variants
def test_every_weight_and_setting_counts(stored, variant):
    """No part of a family can be left out without other logits: none of the comparisons here could pass by chance."""
    folder, _ = stored[variant]
    ours = load_folder(folder)
    ids = random_ids(1, 40)
    before = logits(ours, ids)
    for name, weight in ours.named_parameters():
        if name in ("layers.0.self_attn.k_proj.bias", "layers.1.self_attn.k_proj.bias"):
            continue  # a bias of all keys alike is nearly lost in the softmax
        with torch.no_grad():
            kept = weight.clone()
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
            assert not torch.allclose(logits(ours, ids), before, rtol=1e-4, atol=1e-4), name
            weight.copy_(kept)
    config = dict(vars(ours.config))
    if config["rope_scaling"]:
        plain = fill(empty_model(LlamaConfig(**{**config, "rope_scaling": None})), ours.state_dict().items(), where="")
        assert not torch.allclose(logits(plain, ids), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "shape",
    [
        {"factor": 32.0},
        {"original_max_position_embeddings": 1000},
        {"low_freq_factor": 0.5, "high_freq_factor": 20.0},
        {"rope_theta": 500000.0, "original_max_position_embeddings": 8192, "factor": 32.0},
    ],
)
def test_rotary_scaling_equals_transformers_at_far_positions(tmp_path, shape):
    theirs = random_llama(rope_parameters={**LLAMA3, **shape}, max_position_embeddings=4096, head_dim=16)
    ours = as_ours(theirs, tmp_path)
    ids, positions = random_ids(1, 12), torch.tensor([[0, 1, 5, 17, 60, 200, 900, 1000, 2000, 3000, 4000, 4095]])
    with torch.no_grad():
        found = ours.logits(ours.hidden_states(ids, positions, attend_causally))
        expected = theirs(ids, position_ids=positions, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@variants
def test_gradients_equal_transformers(stored, variant):
    folder, theirs = stored[variant]
    theirs, ours = deepcopy(theirs).double(), load_folder(folder).double()
    ids = random_ids(3, 12)
    theirs.zero_grad()
    F.cross_entropy(theirs(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    F.cross_entropy(ours(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = {name.removeprefix("model."): weight.grad for name, weight in theirs.named_parameters()}
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, weight in ours.named_parameters():
        gradient = weight.grad.to_dense()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@variants
def test_a_saved_checkpoint_gives_equal_logits_here_and_in_transformers(stored, variant, tmp_path):
    folder, _ = stored[variant]
    shape = {**vars(read_config(folder / "config.json")), "vocab_size": 260, "eos_token_id": 256}
    ours = random_model(LlamaConfig(**shape), seed=5).eval()
    with torch.no_grad():
        for weight in ours.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    save_checkpoint(ours, byte_tokenizer(), tmp_path)
    ids = random_ids(2, 60, below=260)
    again, _ = load_checkpoint(tmp_path, CPU)
    assert again.config == ours.config and torch.equal(logits(again, ids), logits(ours, ids))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True, dtype=torch.float32).eval()
    assert theirs.config.model_type == ours.config.family
    torch.testing.assert_close(logits(theirs, ids), logits(ours, ids), **CLOSE)


@variants
def test_packed_training_equals_padded_and_takes_a_step(stored, variant):
    folder, _ = stored[variant]
    model, examples = load_folder(folder), random_examples(6, preamble=5)
    packed_loss, packed = loss_and_gradients(model, make_batch(examples, "packed", 0.3))
    padded_loss, padded = loss_and_gradients(model, make_batch(examples, "padded", 0.3))
    assert packed_loss == pytest.approx(padded_loss, rel=1e-4)
    for name, gradient in padded.items():
        torch.testing.assert_close(packed[name].to_dense(), gradient.to_dense(), rtol=1e-3, atol=2e-5, msg=name)
    losses = []
    module, optimizer = LossModule(model), make_optimizer(model, train_params(lr=0.01))
    batch = make_batch(examples, "packed", 0.3)
    for _ in range(4):
        optimizer.zero_grad(set_to_none=True)
        loss = module(batch) / batch.weights.sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.97 * losses[0]


@variants
def test_lora_adapts_the_blocks_alone_and_merges_into_them(stored, variant):
    folder, _ = stored[variant]
    model = load_folder(folder)
    ids = random_ids(2, 20)
    before = logits(model, ids)
    add_lora(model, lora_params(), seed=0)
    adapted = {name for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    assert len(adapted) == 2 * 7 and all(name.startswith("layers.") for name in adapted)
    torch.testing.assert_close(logits(model, ids), before, **CLOSE)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            assert weight.requires_grad == name.endswith((".lora_A", ".lora_B"))
            if name.endswith("lora_B"):
                weight.normal_(std=0.2, generator=torch.Generator().manual_seed(5))
    trained = logits(model, ids)
    assert not torch.allclose(trained, before, rtol=1e-2, atol=1e-2)
    merge_lora(model)
    torch.testing.assert_close(logits(model, ids), trained, rtol=1e-3, atol=1e-3)


@variants
def test_the_engine_with_its_shared_prefix_equals_the_whole_sequence(stored, variant):
    folder, _ = stored[variant]
    model, ids = load_folder(folder), random_ids(1, 12)[0].tolist()
    ready = make_ready(deepcopy(model), "fp32", FLOAT32)
    whole = logits(model, torch.tensor([ids]))[0]
    with torch.no_grad():
        engine = Engine(ready, ids[:5], slots=2, capacity=16, vocab_size=97)
        first = engine.prefill([ids[5:9]], 0)[0]
        second = engine.decode([[ids[9]]])[0]
    torch.testing.assert_close(first, whole[8], **CLOSE)
    torch.testing.assert_close(second, whole[9], **CLOSE)


@variants
def test_int8_weights_give_nearly_the_same_logits(stored, variant, monkeypatch):
    folder, _ = stored[variant]
    model, ids = load_folder(folder), random_ids(2, 20)
    positions = torch.arange(20).expand(2, -1)
    exact = logits(model, ids)
    monkeypatch.setattr(weights, "_check_int8", lambda device: None)  # some processors are only slower with it
    ready = make_ready(deepcopy(model), "int8", FLOAT32)
    assert isinstance(ready, ReadyDecoder)
    layers = [layer for layer in ready.blocks.modules() if isinstance(layer, nn.Linear | Int8Linear)]
    assert layers and all(isinstance(layer, Int8Linear) for layer in layers)
    with torch.no_grad():
        rounded = ready.logits(ready.hidden_states(ids, positions, attend_causally).flatten(0, 1)).unflatten(0, (2, 20))
    assert F.cosine_similarity(exact, rounded, dim=-1).median() > 0.99
    assert not torch.equal(exact, rounded)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_layers_joined_for_answering_give_the_same_bits(family):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = random_model(LlamaConfig(family=family, vocab_size=97, num_hidden_layers=2, head_dim=16, **sizes), seed=1)
    ids, places = random_ids(2, 20), torch.arange(20).expand(2, -1)
    separate = model.hidden_states(ids, places, attend_causally).detach()
    assert sum(isinstance(one, nn.Linear) for one in model.blocks.modules()) == 14
    with torch.no_grad():
        ready = ReadyDecoder(model, lambda weight, bias: PackedLinear(weight, bias, dtype=torch.float32))
        assert torch.equal(ready.hidden_states(ids, places, attend_causally), separate)
    assert sum(isinstance(one, PackedLinear) for one in ready.blocks.modules()) == 8


def test_a_layer_with_an_adapter_is_not_joined():
    module = SomeInput()
    x, base = torch.randn(3, 8), module.wide
    before = module.project(x)
    module.wide = LoraLinear(base, lora_params(r=1))
    nn.init.zeros_(module.wide.lora_A)
    module.join(lambda weight, bias: pytest.fail("an adapter would be lost"))
    assert all(torch.equal(one, other) for one, other in zip(module.project(x), before, strict=True))


class SomeInput(SameInput):
    names = ("wide", "narrow")

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(8, 6), nn.Linear(8, 2)


@variants
def test_an_untied_head_counts_as_work_once(stored, variant):
    folder, _ = stored[variant]
    model = load_folder(folder)
    assert operations(model)[1] == 6 * 97 * 24
    assert (model.head is model.embedding.weight) == model.config.tied


# config.json as others write it


@pytest.fixture
def published(tmp_path):
    """A function that writes a config.json with the keys of a published model, some of them changed, and reads it."""

    def read(values, **changed):
        values = {key: value for key, value in {**values, **changed}.items() if value != "absent"}
        (tmp_path / "config.json").write_text(json.dumps(values))
        return read_config(tmp_path / "config.json")

    return read


# As published, but for the sizes, which are those of the smallest of each family.
SMOLLM2 = {
    "_name_or_path": "/fsx/loubna/checkpoints", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 960,
    "initializer_range": 0.02, "intermediate_size": 2560, "is_llama_config": True, "max_position_embeddings": 8192,
    "mlp_bias": False, "model_type": "llama", "num_attention_heads": 15, "num_hidden_layers": 32,
    "num_key_value_heads": 5, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False,
    "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 49152,
}  # fmt: skip
LLAMA_32 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.43.1",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip
PUBLISHED = {"smollm2": SMOLLM2, "llama 3.2": LLAMA_32, "qwen2.5": QWEN25, "qwen3": QWEN3}
PARAMETERS = {"smollm2": 361_821_120, "llama 3.2": 1_235_814_400, "qwen2.5": 494_032_768, "qwen3": 596_049_920}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_config_of_a_published_model_gives_its_number_of_weights(published, name):
    config = published(PUBLISHED[name])
    assert sum(weight.numel() for weight in empty_model(config).parameters()) == PARAMETERS[name]
    assert config.head_dim == {"qwen3": 128}.get(name, 64)
    assert (config.rope_scaling is None) == (name != "llama 3.2")


def test_rotary_scaling_is_read_from_both_of_its_places(published):
    scaling = RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    old = LLAMA_32["rope_scaling"]
    assert published(LLAMA_32).rope_scaling == scaling
    new = published(LLAMA_32, rope_scaling="absent", rope_theta="absent", rope_parameters={**old, "rope_theta": 5e5})
    assert new.rope_scaling == scaling and new.rope_theta == 5e5
    assert published(LLAMA_32, rope_scaling={**old, "type": "llama3"}).rope_scaling == scaling


def test_the_rotary_base_is_that_of_transformers_where_two_are_given(published, tmp_path):
    ours = published(SMOLLM2, rope_theta=1e4, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"] == 5e5


@pytest.mark.parametrize(
    ("name", "changed", "key"),
    [
        ("smollm2", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling"),
        ("smollm2", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_scaling"),
        ("smollm2", {"rope_scaling": "linear"}, "rope_scaling"),
        ("smollm2", {"rope_scaling": {"factor": 4.0}}, "rope_scaling"),
        ("smollm2", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "proportional"}}, "rope_parameters"),
        ("smollm2", {"rope_type": "linear"}, "rope_type"),
        ("smollm2", {"rope_interleaved": True}, "rope_interleaved"),
        ("smollm2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("smollm2", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "rope_parameters"),
        ("smollm2", {"sliding_window": 4096}, "sliding_window"),
        ("smollm2", {"attention_bias": True}, "attention_bias"),
        ("smollm2", {"mlp_bias": True}, "mlp_bias"),
        ("smollm2", {"hidden_act": "gelu"}, "hidden_act"),
        ("smollm2", {"logits_scaling": 8.0}, "logits_scaling"),
        ("smollm2", {"embedding_multiplier": 12.0}, "embedding_multiplier"),
        ("smollm2", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("smollm2", {"no_rope_layers": [1, 1, 0]}, "no_rope_layers"),
        ("smollm2", {"num_local_experts": 8}, "num_local_experts"),
        ("smollm2", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("smollm2", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ("smollm2", {"head_dim": 0}, "head_dim"),
        ("smollm2", {"head_dim": 63}, "heads of an even size"),
        ("smollm2", {"head_dim": "64"}, "head_dim"),
        ("smollm2", {"head_dim": 1 << 23}, "heads"),
        ("smollm2", {"tie_word_embeddings": "absent"}, "tie_word_embeddings"),
        ("smollm2", {"tie_word_embeddings": 1.5}, "tie_word_embeddings"),
        ("smollm2", {"num_key_value_heads": "absent"}, "num_key_value_heads"),
        ("smollm2", {"model_type": "mistral"}, "mistral"),
        ("smollm2", {"model_type": ["llama"]}, "model_type"),
        ("llama 3.2", {"rope_scaling": {**LLAMA_32["rope_scaling"], "factor": "absent"}}, "factor"),
        ("llama 3.2", {"rope_scaling": {**LLAMA_32["rope_scaling"], "factor": 0.0}}, "factor"),
        ("llama 3.2", {"rope_scaling": {**LLAMA_32["rope_scaling"], "low_freq_factor": 4.0}}, "low_freq_factor"),
        ("llama 3.2", {"rope_scaling": {**LLAMA_32["rope_scaling"], "attention_factor": 2.0}}, "attention_factor"),
        ("llama 3.2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_parameters"),
        ("llama 3.2", {"eos_token_id": [128001, 128008, 128009]}, "eos_token_id"),
        ("qwen2.5", {"use_sliding_window": True}, "use_sliding_window"),
        ("qwen2.5", {"layer_types": ["full_attention"] * 23 + ["sliding_attention"]}, "layer_types"),
        ("qwen2.5", {"attention_bias": False}, "attention_bias"),
        ("qwen2.5", {"use_mrope": True}, "use_mrope"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen3", {"head_dim": "absent"}, "head_dim"),
        ("qwen3", {"use_qk_norm": False}, "use_qk_norm"),
        ("qwen3", {"rms_norm_eps": 0.0}, "rms_norm_eps"),
    ],
)  # fmt: skip
def test_a_setting_that_would_make_another_model_is_named(published, tmp_path, name, changed, key):
    with pytest.raises(CheckpointError, match=key) as caught:
        published(PUBLISHED[name], **changed)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "config.json")) and text.count("config.json") == 1 and "\n" not in text


def test_absent_and_null_settings_are_those_of_transformers(published):
    plain = published(SMOLLM2)
    changed = {"attention_bias": "absent", "mlp_bias": None, "logits_scaling": None, "sliding_window": None}
    assert published(SMOLLM2, **changed) == plain
    assert published(SMOLLM2, rope_scaling={}, head_dim=64, layer_types=["full_attention"] * 32) == plain


def test_an_end_token_can_be_chosen_where_the_file_lists_several(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_32, "eos_token_id": [128001, 128008, 128009]}))
    assert read_config(tmp_path / "config.json", eos_token_id=128009).eos_token_id == 128009


@pytest.mark.parametrize("make", [random_llama, random_qwen2, random_qwen3])
@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "12KB"}])
def test_an_untied_head_that_is_missing_is_named(tmp_path, make, saving):
    make(tie_word_embeddings=True).save_pretrained(tmp_path, **saving)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight are missing"):
        load_folder(tmp_path)


def test_weights_of_another_family_are_refused_by_name(tmp_path):
    random_qwen2().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for key in ("use_sliding_window", "sliding_window", "max_window_layers"):
        values.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps({**values, "model_type": "llama"}))
    with pytest.raises(CheckpointError, match=r"q_proj\.bias has no place|k_proj\.bias has no place"):
        load_folder(tmp_path)


def test_keys_have_the_type_of_values_where_autocast_norms_in_float32(monkeypatch):
    """As autocast does on a GPU, not on a CPU: a cache holds both in one tensor."""
    config = LlamaConfig(
        family="qwen3", vocab_size=97, num_hidden_layers=2, hidden_size=32, intermediate_size=64, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model, norm = random_model(config, seed=1), nn.RMSNorm.forward
    monkeypatch.setattr(nn.RMSNorm, "forward", lambda self, x: norm(self, x.float()))
    types = []

    def attend(layer, q, k, v):
        types.append((q.dtype, k.dtype, v.dtype))
        return attend_causally(layer, q, k, v)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ids = torch.tensor([[1, 2, 3]])
        model.hidden_states(ids, torch.arange(3)[None], attend)
    assert set(types) == {(torch.bfloat16,) * 3}

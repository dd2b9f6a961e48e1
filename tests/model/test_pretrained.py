import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface import random_gpt2, random_ids, random_llama, random_qwen2, random_qwen3
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from instruct.backbones.catalog import Backbone, WeightFile
from instruct.core.errors import BackboneError, CheckpointError
from instruct.model.checkpoint import save_checkpoint
from instruct.model.pretrained import load_backbone, load_tokenizer_of
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import END_OF_TEXT, gpt2_tokenizer, make_tokenizer, save_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def transformers_smollm2(smollm2_backbone):
    """SmolLM2 as transformers reads it from the same file, which takes it half a minute."""
    name = smollm2_backbone.files[0].name
    model = AutoModelForCausalLM.from_pretrained(smollm2_backbone.folder, gguf_file=name, dtype=torch.float32)
    return model.eval()


@pytest.mark.slow
def test_smollm2_weights_equal_transformers_to_the_bit(smollm2, transformers_smollm2):
    theirs = {name.removeprefix("model."): weight for name, weight in transformers_smollm2.state_dict().items()}
    ours = smollm2.state_dict()
    assert set(theirs) - set(ours) == {"lm_head.weight"}
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert sum(weight.numel() for weight in smollm2.parameters()) == 134_515_008


@pytest.mark.slow
def test_smollm2_logits_equal_transformers(smollm2, smollm2_tokenizer, transformers_smollm2):
    template = TEMPLATES["alpaca"]
    prompts = [template.render("Name the capital of France."), template.render("Translate.", "Guten Tag 12 👍")]
    for ids in [*map(smollm2_tokenizer.encode, prompts), random_ids(1, 40, below=49152)[0].tolist()]:
        row = torch.tensor([ids])
        with torch.no_grad():
            ours, theirs = smollm2(row), transformers_smollm2(row).logits
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.slow
def test_smollm2_config_equals_what_transformers_reads_from_the_file(smollm2, transformers_smollm2):
    config, theirs = smollm2.config, transformers_smollm2.config
    for name in (
        "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "eos_token_id",
    ):  # fmt: skip
        assert getattr(config, name) == getattr(theirs, name), name
    assert config.rms_norm_eps == pytest.approx(theirs.rms_norm_eps, rel=1e-6)
    assert config.rope_theta == theirs.rope_parameters["rope_theta"] == 100000.0


# Backbones of the other kinds, made here


def pinned(path: Path) -> WeightFile:
    data = path.read_bytes()
    return WeightFile(name=path.name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def entry(folder: Path, *names: str, **values) -> Backbone:
    files = tuple(pinned(folder / name) for name in names)
    return Backbone(**{"name": folder.name, "licence": "none", "about": "a test", "files": files, **values})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SHAPE = {"vocab_size": 50257, "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2}


def test_gpt2_weights_without_a_config_take_their_shape_from_the_table(cache):
    theirs = random_gpt2(**SHAPE)
    theirs.save_pretrained(cache / "mine")
    backbone = entry(cache / "mine", "model.safetensors", family="gpt2", format="safetensors", config=SHAPE)
    model, tokenizer = load_backbone(backbone, CPU)
    ids = torch.tensor([tokenizer.encode("Hello 👍")])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert tokenizer is gpt2_tokenizer() is load_tokenizer_of(backbone)
    assert not model.training and model.device == CPU


def test_a_folder_with_its_own_config_and_tokenizer_is_a_backbone(cache):
    theirs = random_llama(vocab_size=257)
    theirs.save_pretrained(cache / "mine")
    tokens = [*(bytes([value]) for value in range(256)), END_OF_TEXT.encode()]
    tokenizer = make_tokenizer(tokens, {END_OF_TEXT: 256}, "smollm", eos_id=256)
    values = json.loads((cache / "mine" / "config.json").read_text())
    (cache / "mine" / "config.json").write_text(json.dumps({**values, "eos_token_id": 256}))
    save_tokenizer(tokenizer, cache / "mine" / "tokenizer.json")
    names = ("model.safetensors", "config.json", "tokenizer.json")
    backbone = entry(cache / "mine", *names, family="llama", format="safetensors")
    model, loaded = load_backbone(backbone, CPU)
    ids = torch.tensor([tokenizer.encode("Hi 12")])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert loaded.encode("Hi 12") == load_tokenizer_of(backbone).encode("Hi 12") == tokenizer.encode("Hi 12")


def test_a_folder_whose_tokenizer_has_tokens_without_a_row_is_refused(cache):
    """Else the first such token in a record would end training with an index out of range."""
    random_llama(vocab_size=256, eos_token_id=0).save_pretrained(cache / "mine")
    tokens = [END_OF_TEXT.encode(), *(bytes([value]) for value in range(256))]
    save_tokenizer(make_tokenizer(tokens, {END_OF_TEXT: 0}, "smollm", eos_id=0), cache / "mine" / "tokenizer.json")
    names = ("model.safetensors", "config.json", "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"257 .* 256"):
        load_backbone(entry(cache / "mine", *names, family="llama", format="safetensors"), CPU)


def test_a_random_backbone_needs_no_files_and_is_the_same_each_time(cache, tmp_path):
    values = {"name": "tiny", "licence": "none", "about": "a test", "files": (), "family": "gpt2", "format": "random"}
    backbone = Backbone(**values, seed=3, config=SHAPE)
    first, second = (load_backbone(backbone, CPU)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not cache.exists()
    save_checkpoint(load_backbone(backbone, CPU)[0], gpt2_tokenizer(), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(stored["transformer.wte.weight"], first["wte.weight"])


def test_damaged_weights_are_never_loaded(cache):
    random_gpt2(**SHAPE).save_pretrained(cache / "mine")
    backbone = entry(cache / "mine", "model.safetensors", family="gpt2", format="safetensors", config=SHAPE)
    path = cache / "mine" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        BackboneError, match=r"model\.safetensors has sha256 .* names no source; run `instruct fetch mine --from PATH`"
    ):
        load_backbone(backbone, CPU)
    assert path.read_bytes() == data, "the user's file stays"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"config": {"n_embed": 8}}, r"mine: config\.n_embed is not a setting; did you mean n_embd\?"),
        ({"config": {"n_embd": "8"}}, r'mine: config\.n_embd must be a whole number, is the text "8"'),
        ({"config": {"n_embd": 8, "n_head": 3}}, "n_embd 8 is not a multiple of n_head 3"),
        ({"config": {**SHAPE, "vocab_size": 97}}, "mine: the tokenizer has 50257 tokens, the model only 97"),
    ],
)
def test_an_entry_that_cannot_be_a_model_is_refused(cache, values, message):
    random_gpt2(**SHAPE).save_pretrained(cache / "mine")
    common = {"family": "gpt2", "format": "safetensors", "config": SHAPE}
    backbone = entry(cache / "mine", "model.safetensors", **{**common, **values})
    with pytest.raises(BackboneError, match=message) as caught:
        load_backbone(backbone, CPU)
    assert "\n" not in str(caught.value)


def described(folder: Path, model, eos: object = 256, **values) -> Backbone:
    """A backbone of a folder that transformers wrote, with a tokenizer of bytes."""
    tokens = [*(bytes([value]) for value in range(256)), END_OF_TEXT.encode()]
    save_tokenizer(make_tokenizer(tokens, {END_OF_TEXT: 256}, "smollm", eos_id=256), folder / "tokenizer.json")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": eos}))
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    common = {"family": model.config.model_type, "format": "safetensors"}
    return entry(folder, "config.json", "tokenizer.json", *weights, **{**common, **values})


@pytest.mark.parametrize("make", [random_llama, random_qwen2, random_qwen3])
def test_sharded_files_of_every_family_are_the_listed_ones_alone(cache, make):
    """An older whole file beside them, which nobody verified, is not even opened."""
    theirs = make(vocab_size=257, tie_word_embeddings=False)
    theirs.save_pretrained(cache / "mine", max_shard_size="30KB")
    backbone = described(cache / "mine", theirs)
    assert len(backbone.files) > 4
    (cache / "mine" / "model.safetensors").write_bytes(b"not even a file of weights")
    (cache / "mine" / "model.safetensors.index.json").unlink()
    model, tokenizer = load_backbone(backbone, CPU)
    ids = torch.tensor([tokenizer.encode("Hi 12")])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_the_table_chooses_among_several_end_tokens(cache):
    theirs = random_llama(vocab_size=257)
    theirs.save_pretrained(cache / "mine")
    backbone = described(cache / "mine", theirs, eos=[0, 256])
    with pytest.raises(CheckpointError, match="eos_token_id must be a whole number, is a list"):
        load_backbone(backbone, CPU)
    chosen = replace(backbone, config={"eos_token_id": 256})
    assert load_backbone(chosen, CPU)[1].eos_id == load_tokenizer_of(chosen).eos_id == 256


def test_another_family_than_the_tables_is_named(cache):
    theirs = random_qwen2(vocab_size=257)
    theirs.save_pretrained(cache / "mine")
    backbone = described(cache / "mine", theirs, family="qwen3")
    for look in (lambda: load_backbone(backbone, CPU), lambda: load_tokenizer_of(backbone)):
        with pytest.raises(BackboneError, match="mine: is a qwen2, not the qwen3 of the table"):
            look()

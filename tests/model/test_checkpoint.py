import json
import os
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import warm
from huggingface import as_ours, load_folder, random_gpt2, random_ids, random_llama
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from instruct.core.errors import CheckpointError
from instruct.model.checkpoint import empty_model, load_checkpoint, random_model, save_checkpoint, weight_files
from instruct.model.config_file import read_config
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import END_OF_TEXT, gpt2_tokenizer, make_tokenizer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
FAMILIES = {"gpt2": random_gpt2, "llama": random_llama}


def logits(model, ids=None):
    with torch.no_grad():
        out = model(random_ids(2, 9) if ids is None else ids)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    """A checkpoint that transformers wrote, with the logits it should give."""
    theirs = FAMILIES[request.param]()
    theirs.save_pretrained(tmp_path)
    return tmp_path, logits(theirs)


def change_tensors(folder: Path, change) -> None:
    """Rewrite model.safetensors as `change` makes it; nothing of it stays mapped."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def assert_same(folder: Path, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(logits(load_folder(folder)), expected, rtol=tolerance, atol=tolerance)


# Loading what others wrote


def test_weights_load_with_and_without_the_family_prefix(folder):
    path, expected = folder
    change_tensors(path, lambda t: {n.removeprefix("transformer.").removeprefix("model."): t[n] for n in t})
    assert_same(path, expected)


def test_a_head_of_its_own_is_refused(folder):
    path, _ = folder
    change_tensors(path, lambda tensors: {**tensors, "lm_head.weight": torch.ones(97, 24)})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not the embedding, a variant that cannot be loaded"):
        load_folder(path)


def test_a_tied_head_and_mask_buffers_are_left_out(folder):
    path, expected = folder

    def old_fashioned(tensors):
        head = next(tensors[name] for name in tensors if name.endswith(("wte.weight", "embed_tokens.weight")))
        mask = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
        extra = {"lm_head.weight": head.clone()}
        if any(name.startswith("transformer.") for name in tensors):
            extra["transformer.h.0.attn.bias"] = mask
            extra["transformer.h.1.attn.masked_bias"] = torch.tensor(-1e4)
        else:
            extra["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
        return {**tensors, **extra}

    change_tensors(path, old_fashioned)
    assert_same(path, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_weights_equal_whole_ones(tmp_path, family):
    theirs = FAMILIES[family]()
    ours = as_ours(theirs, tmp_path, max_shard_size="12KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-4, atol=1e-4)


def test_one_whole_file_wins_over_an_index_as_in_transformers(folder):
    path, expected = folder
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    assert_same(path, expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.2), (torch.float64, 1e-4)])
def test_stored_precision_becomes_float32(folder, dtype, tolerance):
    path, expected = folder
    change_tensors(path, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    model = load_folder(path)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert_same(path, expected, tolerance)
    stored = load_file(path / "model.safetensors")
    embedding = next(tensor for name, tensor in stored.items() if name.endswith(("wte.weight", "embed_tokens.weight")))
    assert torch.equal(model.embedding.weight, embedding.float())


def test_loaded_weights_do_not_hang_on_the_file(folder):
    path, expected = folder
    model = load_folder(path)
    (path / "model.safetensors").write_bytes(b"\0" * (path / "model.safetensors").stat().st_size)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert all(weight.requires_grad and weight.device == CPU for weight in model.parameters())


# Weights that do not fit


def bigger(tensors):
    name = sorted(tensors)[0]
    return {**tensors, name: torch.cat((tensors[name], tensors[name]))}


def without_first(tensors):
    return {name: tensors[name] for name in sorted(tensors)[1:]}


def with_number(number):
    def change(tensors):
        name = sorted(tensors)[0]
        tensors[name].view(-1)[-1] = number
        return tensors

    return change


def first_twice(tensors):
    name = sorted(tensors)[0]
    return {**tensors, name.removeprefix("transformer.").removeprefix("model."): tensors[name] + 1}


def first_as_integers(tensors):
    name = sorted(tensors)[0]
    return {**tensors, name: tensors[name].to(torch.int32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_first, r"the tensors .*weight.* are missing; fetch or save it again|the tensors .*bias are missing"),
        (lambda tensors: {**tensors, "h.9.extra": torch.ones(2)}, r"the tensor h\.9\.extra has no place in this model"),
        (bigger, r"has shape \(.*\) instead of \(.*\); is the config another model's\?"),
        (first_as_integers, r"holds torch\.int32, not floating-point numbers"),
        (first_twice, "twice"),
        (with_number(float("nan")), "NaN or infinity"),
        (with_number(-float("inf")), "NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, message):
    path, _ = folder
    names = sorted(load_file(path / "model.safetensors"))
    change_tensors(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_folder(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    first = names[0].removeprefix("transformer.").removeprefix("model.")
    assert "extra" in text or first in text


def test_many_missing_tensors_are_counted(folder):
    path, _ = folder
    change_tensors(path, lambda tensors: dict(sorted(tensors.items())[:1]))
    more = {"gpt2": 28, "llama": 20}[json.loads((path / "config.json").read_text())["model_type"]] - 1 - 3
    with pytest.raises(CheckpointError, match=rf"and {more} more are missing"):
        load_folder(path)


def damage_cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damage_header(data: bytes) -> bytes:
    return data[:20]


def damage_empty(data: bytes) -> bytes:
    return b""


def damage_text(data: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 5\n"


def damage_huge_header(data: bytes) -> bytes:
    return struct.pack("<Q", 1 << 60) + data[8:]


@pytest.mark.parametrize("damage", [damage_cut, damage_header, damage_empty, damage_text, damage_huge_header])
def test_a_damaged_weight_file_is_refused_in_one_line(folder, damage):
    path, _ = folder
    file = path / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole safetensors file .*again") as caught:
        load_folder(path)
    assert "\n" not in str(caught.value)


def test_a_missing_weight_file_is_named(folder):
    path, _ = folder
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: there is no such file; run the stage"):
        load_folder(path)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "..", "", ".", "a/b.safetensors", "x.bin", 5]
)
def test_an_index_that_names_anything_but_shards_of_its_folder_is_refused(tmp_path, name):
    inside = tmp_path / "inside"
    theirs = random_gpt2()
    theirs.save_pretrained(inside)
    (inside / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (inside / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(CheckpointError, match=r"index\.json: names .*not a safetensors file of this folder"):
        weight_files(inside)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": null}'])
def test_a_broken_index_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        weight_files(tmp_path)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_nothing_is_ever_unpickled(folder, tmp_path, name):
    path, _ = folder
    fired = tmp_path / "fired"
    (path / "model.safetensors").unlink()
    torch.save({"wte.weight": torch.ones(2), "x": Bomb(fired)}, path / name)
    (path / f"{name}.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(CheckpointError):
        load_folder(path)
    assert not fired.exists()
    pickle.loads(pickle.dumps(Bomb(fired)))
    assert fired.exists(), "the bomb itself must work"


# config.json


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("gpt2", {"model_type": "gpt_neox"}, r'model_type is "gpt_neox"; only gpt2, llama, qwen2, qwen3 can be loaded'),
        ("gpt2", {"model_type": None}, "model_type"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is relu, a variant that cannot be loaded"),
        ("gpt2", {"activation_function": "gelu"}, "activation_function is gelu"),  # the exact one, not the tanh one
        ("gpt2", {"n_inner": 7}, "n_inner is 7"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("gpt2", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("gpt2", {"n_head": "4"}, r'n_head must be a whole number, is the text "4"'),
        ("gpt2", {"n_head": 5}, "n_embd 24 is not a multiple of n_head 5"),
        ("gpt2", {"n_layer": None}, "n_layer must be a whole number, is null"),
        ("gpt2", {"n_head": 0}, "must be 1 or more"),
        ("llama", {"tie_word_embeddings": None}, "tie_word_embeddings is None"),
        ("llama", {"attention_bias": True}, "attention_bias is True"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is gelu"),
        ("llama", {"head_dim": 7}, "heads of an even size"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, r"rope_parameters\.factor"),
        ("llama", {"num_key_value_heads": 3}, "4 heads and 3 key heads do not divide"),
        ("llama", {"eos_token_id": [1, 2]}, "eos_token_id must be a whole number, is a list"),
        ("llama", {"eos_token_id": 97}, "eos_token_id is 97"),
        ("gpt2", {"eos_token_id": -1}, "eos_token_id is -1"),
        ("gpt2", {"n_layer": 10**5}, "layers"),
        ("gpt2", {"n_layer": 2.0}, "n_layer must be a whole number"),
        ("gpt2", {"n_embd": 2**62}, "n_embd"),
        ("gpt2", {"layer_norm_epsilon": 10**400}, "layer_norm_epsilon"),
        ("llama", {"num_hidden_layers": 10**5}, "layers"),
        ("llama", {"intermediate_size": 2**62}, "intermediate_size"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, "rope_theta"),
    ],
)
def test_another_family_or_variant_is_refused(tmp_path, family, values, message):
    FAMILIES[family]().save_pretrained(tmp_path)
    change_json(tmp_path / "config.json", **values)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(tmp_path / "config.json")
    assert str(caught.value).startswith(str(tmp_path / "config.json")) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("gpt2", "n_head"),
        ("gpt2", "eos_token_id"),
        ("llama", "num_key_value_heads"),
        ("llama", "rope_parameters"),
        ("llama", "tie_word_embeddings"),  # which transformers takes for an untied head
    ],
)
def test_no_default_of_ours_stands_in_for_an_absent_key(tmp_path, family, key):
    FAMILIES[family]().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values[key]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(
        CheckpointError, match=f"{'rope_theta' if key == 'rope_parameters' else key} is (missing|absent)"
    ):
        read_config(tmp_path / "config.json")


def test_the_older_place_of_the_rotary_base_is_read(tmp_path):
    random_llama(rope_theta=4321.0).save_pretrained(tmp_path)
    assert read_config(tmp_path / "config.json").rope_theta == 4321.0
    values = json.loads((tmp_path / "config.json").read_text())
    del values["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps({**values, "rope_theta": 4321, "rope_scaling": None}))
    assert read_config(tmp_path / "config.json").rope_theta == 4321.0


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN"])
def test_an_epsilon_that_is_no_number_is_refused(tmp_path, number):
    random_gpt2().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert '"layer_norm_epsilon": 1e-05' in text
    (tmp_path / "config.json").write_text(text.replace("1e-05", number))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "gpt2", "model_type": "llama"}'])
def test_a_broken_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


# Saving


@pytest.fixture(scope="module")
def small_tokenizer():
    tokens = [*(bytes([value]) for value in range(256)), b"th", b"the", END_OF_TEXT.encode()]
    return make_tokenizer(tokens, {END_OF_TEXT: 258}, "smollm", eos_id=258)


SMALL_GPT2 = GPT2Config(vocab_size=260, n_positions=64, n_embd=24, n_layer=2, n_head=4, eos_token_id=258)
SMALL_LLAMA = LlamaConfig(
    vocab_size=259, max_position_embeddings=64, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-4, rope_theta=500.0, eos_token_id=258,
)  # fmt: skip


@pytest.mark.parametrize("config", [SMALL_GPT2, SMALL_LLAMA], ids=FAMILIES)
def test_a_saved_checkpoint_loads_in_transformers_with_equal_logits(tmp_path, small_tokenizer, config):
    ours = random_model(config, seed=5).eval()
    save_checkpoint(ours, small_tokenizer, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True, use_safetensors=True).eval()
    ids = random_ids(2, 30, below=config.vocab_size)
    torch.testing.assert_close(logits(ours, ids), logits(theirs, ids), rtol=1e-5, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in ("the other 12  34 thé\n\n", "  ", "👍"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == small_tokenizer.encode(text)
    assert tokenizer.eos_token_id == theirs.config.eos_token_id == 258
    assert tokenizer.decode(small_tokenizer.encode("th the  1\n")) == "th the  1\n"


@pytest.mark.parametrize("config", [SMALL_GPT2, SMALL_LLAMA], ids=FAMILIES)
def test_a_reloaded_checkpoint_is_the_same_to_the_bit(tmp_path, small_tokenizer, config):
    ours = random_model(config, seed=5).eval()
    save_checkpoint(ours, small_tokenizer, tmp_path / "a")
    again, tokenizer = load_checkpoint(tmp_path / "a", CPU)
    assert again.config == config
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in ours.state_dict().items())
    assert torch.equal(logits(again), logits(ours))
    assert tokenizer.encode("the 12 thé") == small_tokenizer.encode("the 12 thé")
    save_checkpoint(again, tokenizer, tmp_path / "b")
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_saved_checkpoint_ends_texts_as_it_was_trained_to_and_pads_with_another_token(tmp_path):
    """Where a template has an end token of its own; else transformers would go on after it, or mask it as padding."""
    special = {END_OF_TEXT: 256, "<|im_start|>": 257, "<|im_end|>": 258}
    tokens = [*(bytes([value]) for value in range(256)), *(name.encode() for name in special)]
    tokenizer = make_tokenizer(tokens, special, "gpt2", eos_id=258)
    model = random_model(replace(SMALL_GPT2, eos_token_id=256), seed=1)
    save_checkpoint(model, tokenizer, tmp_path, None, TEMPLATES["chatml"])
    assert read_config(tmp_path / "config.json").eos_token_id == load_checkpoint(tmp_path, CPU)[1].eos_id == 258
    theirs, settings = AutoTokenizer.from_pretrained(tmp_path), GenerationConfig.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (258, 256)
    assert settings.eos_token_id[0] == 258 and settings.pad_token_id == 256


def test_saved_files_obey_the_umask(tmp_path, small_tokenizer):
    before = os.umask(0o027)
    try:
        save_checkpoint(random_model(SMALL_GPT2, seed=5), small_tokenizer, tmp_path / "new")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o640}


def test_random_weights_depend_on_the_seed_alone():
    first, second, other = (random_model(SMALL_GPT2, seed=seed).state_dict() for seed in (5, 5, 6))
    torch.manual_seed(99)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["wte.weight"], other["wte.weight"])
    assert 0.019 < first["wte.weight"].std() < 0.021
    assert first["ln_f.weight"].eq(1).all() and first["h.0.attn.c_attn.bias"].eq(0).all()


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    tokens = [END_OF_TEXT.encode(), *(bytes([value]) for value in range(256))]
    save_checkpoint(
        random_model(SMALL_LLAMA, seed=5), make_tokenizer(tokens, {END_OF_TEXT: 0}, "smollm", eos_id=0), tmp_path
    )
    change_json(tmp_path / "config.json", vocab_size=200, eos_token_id=0)
    with pytest.raises(CheckpointError, match=r"257 .* 200"):
        load_checkpoint(tmp_path, CPU)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, small_tokenizer):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        save_checkpoint(random_model(SMALL_GPT2, seed=5), small_tokenizer, tmp_path / "file" / "sft")
    assert "\n" not in str(caught.value)


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from instruct.core.errors import CheckpointError
from instruct.model.checkpoint import random_model, save_checkpoint
from instruct.model.gpt2 import GPT2Config
from instruct.text.tokenizer import gpt2_tokenizer

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
config = GPT2Config(n_positions=64, n_embd=4, n_layer=2, n_head=2)
save_checkpoint(random_model(config, seed=1), gpt2_tokenizer(), folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    save_checkpoint(random_model(config, seed=2), gpt2_tokenizer(), folder)
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [100_000, 2_000_000], ids=["weights do not fit", "tokenizer does not fit"])
def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, limit):
    pytest.importorskip("resource")
    folder = tmp_path / "sft"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = warm.python("-c", FULL_DISK, str(folder), str(limit), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "cannot be written (" in done.stdout and "free some space" in done.stdout
    assert done.stdout.rstrip().endswith("the checkpoint that was there before is untouched")
    assert str(folder) in done.stdout
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == names, "no half-written file stays"
    model, tokenizer = load_checkpoint(folder, CPU)
    old = random_model(model.config, seed=1).state_dict()
    assert all(torch.equal(weight, old[name]) for name, weight in model.state_dict().items())
    assert tokenizer.encode("Hello") == gpt2_tokenizer().encode("Hello")


# Memory

PEAK = """
import sys, threading, torch
from pathlib import Path
from instruct.model.checkpoint import empty_model, fill, safetensors_weights, weight_files
from instruct.model.config_file import read_config

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

def watch(done, seen):
    while not done.wait(0.001):
        seen.append(anonymous())

torch.set_num_threads(1)
folder = Path(sys.argv[1])
model = empty_model(read_config(folder / "config.json"))  # first: it makes torch import half of itself
before, done, seen = anonymous(), threading.Event(), []
watcher = threading.Thread(target=watch, args=(done, seen))
watcher.start()
fill(model, safetensors_weights(weight_files(folder)), where="here")
done.set()
watcher.join()
size = sum(weight.nbytes for weight in model.parameters())
print(size, len(seen), max(seen) - before, anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
def test_loading_takes_the_memory_of_the_weights_once(tmp_path):
    config = GPT2Config(n_positions=64, n_embd=512, n_layer=6, n_head=8)
    generator = torch.Generator().manual_seed(1)
    shapes = {name: weight.shape for name, weight in empty_model(config).state_dict().items()}
    transposed = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    tensors = {
        f"transformer.{name}": torch.randn(shape[::-1] if name.endswith(transposed) else shape, generator=generator)
        for name, shape in shapes.items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config.to_huggingface()))
    del tensors
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, env=environment, check=True
    )
    size, samples, peak, after = map(int, done.stdout.split())
    assert size > 150e6 and samples > 20
    assert after > 0.9 * size, "the weights must be in memory for the measurement to mean anything"
    assert peak < 1.3 * size

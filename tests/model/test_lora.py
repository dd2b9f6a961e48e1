import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from huggingface import random_gpt2, random_ids, random_llama
from safetensors.torch import load_file, save_file
from small_training import (
    CPU,
    FAMILIES,
    byte_tokenizer,
    loss_and_gradients,
    make_batch,
    random_examples,
    small_model,
    train_params,
)
from small_training import lora_params as lora
from torch import nn

from instruct.backbones.catalog import Backbone, WeightFile, find_backbone
from instruct.core.errors import CheckpointError, ParamsError
from instruct.core.files import sha256_of
from instruct.model.checkpoint import Model, random_model, save_adapter, save_checkpoint
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig
from instruct.model.lora import LoraLinear, add_lora, fill_adapter, is_adapted, merge_lora, read_adapter_config
from instruct.model.pretrained import load_backbone, load_trained
from instruct.training.loop import make_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")
families = pytest.mark.parametrize("family", FAMILIES)

LINEAR_LAYERS = {"gpt2": 2 * 4, "llama": 2 * 7}
TARGETS = {"gpt2": ("c_attn", "c_fc"), "llama": ("q_proj", "v_proj", "down_proj")}


def adapted_model(family: str, *, trained: bool = True, **params: object) -> Model:
    """With `trained`, B is random in place of zero."""
    model = small_model(family)
    add_lora(model, lora(**params), seed=0)
    return randomise_b(model) if trained else model


def randomise_b(model: Model) -> Model:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_B"):
                weight.normal_(std=0.2, generator=generator)
    return model


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(random_ids(3, 17))


@families
def test_adapter_changes_nothing_before_training(family):
    assert torch.equal(logits(adapted_model(family, trained=False)), logits(small_model(family)))


@families
def test_only_adapters_are_trainable_and_in_the_optimizer(family):
    model = adapted_model(family, trained=False)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trainable) == 2 * LINEAR_LAYERS[family]
    assert all(name.endswith((".lora_A", ".lora_B")) for name in trainable)
    optimizer = make_optimizer(model, train_params())
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert held == {id(weight) for name, weight in model.named_parameters() if name in trainable}


@families
def test_training_moves_adapters_and_leaves_the_backbone_alone(family):
    model = adapted_model(family)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = make_optimizer(model, train_params(lr=0.1))
    loss_and_gradients(model, make_batch(random_examples(4), "packed"))
    optimizer.step()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) != name.endswith((".lora_A", ".lora_B")), name


@families
def test_targets_choose_the_adapted_layers(family):
    model = adapted_model(family, target_modules=TARGETS[family])
    found = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    assert sorted(found) == sorted(TARGETS[family] * 2)


def test_adapted_layer_equals_the_formula():
    base = nn.Linear(5, 3)
    layer = LoraLinear(base, lora(r=2, alpha=6.0))
    with torch.no_grad():
        layer.lora_A.copy_(torch.arange(10.0).view(2, 5) / 10)
        layer.lora_B.copy_(torch.arange(6.0).view(3, 2) / 7)
    x = torch.tensor([[1.0, -1.0, 2.0, 0.5, 0.0]])
    # A x = (0 - 0.1 + 0.4 + 0.15 + 0, 0.5 - 0.6 + 1.4 + 0.4 + 0) = (0.45, 1.7); alpha / r = 3
    by_hand = 3 * torch.tensor([[(0 * 0.45 + 1 * 1.7) / 7, (2 * 0.45 + 3 * 1.7) / 7, (4 * 0.45 + 5 * 1.7) / 7]])
    torch.testing.assert_close(layer(x), base(x) + by_hand)


def test_alpha_over_rank_scales_the_adapter():
    def effect(**params: object) -> torch.Tensor:
        base = nn.Linear(6, 6, bias=False)
        layer = LoraLinear(base, lora(**params))
        nn.init.ones_(layer.lora_A)
        nn.init.ones_(layer.lora_B)
        x = torch.ones(1, 6)
        return layer(x) - base(x)

    # each output is scale x (r rows of A, each summing six ones)
    torch.testing.assert_close(effect(r=2, alpha=8.0), torch.full((1, 6), 4.0 * 2 * 6))
    torch.testing.assert_close(effect(r=4, alpha=8.0), torch.full((1, 6), 2.0 * 4 * 6))
    torch.testing.assert_close(effect(r=2, alpha=16.0), torch.full((1, 6), 8.0 * 2 * 6))


def test_first_matrix_is_drawn_from_the_seed_as_kaiming_uniform():
    def drawn(seed: int) -> torch.Tensor:
        model = small_model("gpt2")
        add_lora(model, lora(r=4), seed=seed)
        return model.get_submodule("h.0.mlp.c_proj").lora_A

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    bound = 1 / 96**0.5  # kaiming_uniform_ with a = sqrt(5), for 96 inputs
    assert 0.95 * bound < drawn(1).abs().max().item() <= bound


@families
def test_dropout_acts_in_training_only(family):
    model = adapted_model(family, dropout=0.5)
    assert torch.equal(logits(model.eval()), logits(adapted_model(family).eval()))
    torch.manual_seed(0)
    model.train()
    assert not torch.equal(logits(model), logits(model))


@families
@pytest.mark.parametrize("all_layers", [True, False])
def test_merged_equals_adapted(family, all_layers):
    model = adapted_model(family, target_modules=() if all_layers else TARGETS[family])
    expected = logits(model)
    assert (expected - logits(small_model(family))).abs().max() > 0.1
    names = set(small_model(family).state_dict())
    merge_lora(model)
    assert not is_adapted(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_stored_adapter_added_by_hand_to_transformers_equals_adapted(tmp_path, family):
    """By PEFT's layout: W of base_model.model.NAME gets (alpha / r) B A, transposed where fan_in_fan_out."""
    theirs = random_gpt2() if family == "gpt2" else random_llama()
    theirs.save_pretrained(tmp_path / "base")
    ours = load_small(tmp_path / "base", family)
    add_lora(ours, lora(r=3, alpha=6.0), seed=0)
    randomise_b(ours)
    save_adapter(ours, byte_tokenizer(), tmp_path / "adapter", backbone(family))
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    scale, transposed = config["lora_alpha"] / config["r"], config["fan_in_fan_out"]
    assert (scale, transposed) == (2.0, family == "gpt2")
    modules = {name.removesuffix(".lora_A.weight") for name in stored if name.endswith(".lora_A.weight")}
    assert len(modules) == LINEAR_LAYERS[family] and len(stored) == 2 * len(modules)
    with torch.no_grad():
        for name in modules:
            assert name.rsplit(".", 1)[-1] in config["target_modules"]
            delta = scale * stored[f"{name}.lora_B.weight"] @ stored[f"{name}.lora_A.weight"]
            weight = theirs.get_submodule(name.removeprefix("base_model.model.")).weight
            weight += delta.t() if transposed else delta
        ids = random_ids(2, 15)
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def load_small(folder: Path, family: str) -> Model:
    from huggingface import load_folder

    model = load_folder(folder)
    assert type(model).__name__.lower() == family
    return model


def backbone(family: str, **changes: object) -> Backbone:
    names = ("model.safetensors", "config.json", "tokenizer.json")
    files = tuple(WeightFile(name=name, size=1, sha256="0" * 64) for name in names)
    values = {"name": "small", "family": family, "format": "safetensors", "licence": "-", "about": "-", "files": files}
    return Backbone(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["gpt2", "llama"])
def stored_backbone(request, tmp_path, monkeypatch) -> Backbone:
    """A backbone `small` whose files lie in the cache, pinned in a table of its own."""
    config = {
        "gpt2": GPT2Config(vocab_size=257, eos_token_id=256, n_positions=32, n_embd=8, n_layer=2, n_head=2),
        "llama": LlamaConfig(
            vocab_size=257, max_position_embeddings=32, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, eos_token_id=256,
        ),
    }[request.param]  # fmt: skip
    folder = tmp_path / "cache" / "small"
    save_checkpoint(random_model(config, seed=3), byte_tokenizer(), folder)
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_table(request.param, folder)
    return find_backbone("small")


def write_table(family: str, folder: Path) -> None:
    files = [
        {"name": file.name, "size": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(folder.iterdir())
    ]
    entry = {"family": family, "format": "safetensors", "licence": "-", "about": "-", "files": files}
    Path("models").mkdir(exist_ok=True)
    Path("models/backbones.yaml").write_text(yaml.safe_dump({"small": entry}), encoding="utf-8")


def test_saved_adapter_loads_as_the_merged_model(stored_backbone, tmp_path):
    model, tokenizer = load_backbone(stored_backbone, CPU)
    add_lora(model, lora(r=2, target_modules=TARGETS[stored_backbone.family]), seed=1)
    randomise_b(model)
    folder = tmp_path / "adapter"
    save_adapter(model, tokenizer, folder, stored_backbone)
    assert not (folder / "model.safetensors").exists()
    stored = load_file(folder / "adapter_model.safetensors")
    adapters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert sum(tensor.numel() for tensor in stored.values()) == sum(weight.numel() for weight in adapters.values())
    merge_lora(model)
    loaded, loaded_tokenizer = load_trained(folder, CPU)
    assert not loaded.training and not is_adapted(loaded)
    assert all(weight.requires_grad for weight in loaded.parameters()), "preference tuning may train all of them"
    assert loaded_tokenizer.eos_id == tokenizer.eos_id
    expected = dict(model.named_parameters())
    assert expected.keys() == dict(loaded.named_parameters()).keys()
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, expected[name]), name


def test_merged_checkpoint_is_a_plain_one(stored_backbone, tmp_path):
    model, tokenizer = load_backbone(stored_backbone, CPU)
    add_lora(model, lora(r=2), seed=1)
    randomise_b(model)
    ids = random_ids(2, 9)
    with torch.no_grad():
        expected = model(ids)
        merge_lora(model)
        save_checkpoint(model, tokenizer, tmp_path / "merged")
        loaded, _ = load_trained(tmp_path / "merged", CPU)
        torch.testing.assert_close(loaded(ids), expected, rtol=1e-4, atol=1e-4)


def test_adapter_of_other_weights_is_refused(stored_backbone, tmp_path):
    model, tokenizer = load_backbone(stored_backbone, CPU)
    add_lora(model, lora(r=2), seed=1)
    save_adapter(model, tokenizer, tmp_path / "adapter", stored_backbone)
    other = random_model(model.config, seed=4)
    save_checkpoint(other, tokenizer, tmp_path / "cache" / "small")
    write_table(stored_backbone.family, tmp_path / "cache" / "small")
    with pytest.raises(CheckpointError, match=r"adapter: was trained on other weights .* pins for small; train again"):
        load_trained(tmp_path / "adapter", CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_adapter_of_a_checkpoint_of_which_any_file_differs_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shape = GPT2Config(vocab_size=257, n_positions=32, n_embd=8, n_layer=1, n_head=2, eos_token_id=256)
    base, model = Path("models/sft"), random_model(shape, seed=1)
    save_checkpoint(model, byte_tokenizer(), base)
    add_lora(model, lora(r=2), seed=1)
    save_adapter(model, byte_tokenizer(), tmp_path / "adapter", base)
    load_trained(tmp_path / "adapter", CPU)
    if name == "model.safetensors":
        save_file({key: 2 * value for key, value in load_file(base / name).items()}, base / name)
    else:
        (base / name).write_text((base / name).read_text() + " ")
    with pytest.raises(CheckpointError, match="was trained on another checkpoint than models/sft now holds"):
        load_trained(tmp_path / "adapter", CPU)


@pytest.mark.filterwarnings("ignore")  # PEFT tells of our own keys, and of names in transformers
def test_adapter_loads_in_peft(stored_backbone, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_backbone(stored_backbone, CPU)
    add_lora(model, lora(r=2), seed=1)
    randomise_b(model)
    save_adapter(model, tokenizer, tmp_path / "adapter", stored_backbone)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "cache" / "small")
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    ids = random_ids(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, model(ids), rtol=1e-4, atol=1e-4)


def test_rank_larger_than_the_matrix_is_refused():
    with pytest.raises(
        ParamsError, match=r"params\.yaml: train\.lora\.r must be at most 24, the size of h\.0\..*; is 25"
    ):
        add_lora(small_model("gpt2"), lora(r=25), seed=0)
    add_lora(small_model("gpt2"), lora(r=24), seed=0)
    with pytest.raises(ParamsError, match=r"at most 12, the size of layers\.0\.self_attn\.k_proj; is 13"):
        add_lora(small_model("llama"), lora(r=13, target_modules=("k_proj",)), seed=0)


@pytest.mark.parametrize(
    ("family", "target", "hint"),
    [
        ("gpt2", "c_atn", "; did you mean c_attn?"),
        ("llama", "q_project", "; did you mean q_proj?"),
        ("gpt2", "xyz", "; there are c_attn, c_fc, c_proj"),
    ],
)
def test_target_that_no_layer_is_called_is_refused_with_the_nearest_name(family, target, hint):
    with pytest.raises(ParamsError) as error:
        add_lora(small_model(family), lora(target_modules=(target,)), seed=0)
    assert str(error.value) == f"params.yaml: train.lora.target_modules: no layer is called {target}{hint}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": -1}, "r must be at least 0"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes: Mapping[str, float], message):
    with pytest.raises(ParamsError, match=message):
        lora(**changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.popitem(), "is missing; train again"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "the tensor extra has no place in this model"),
        (
            lambda tensors: tensors.update({next(iter(tensors)): torch.zeros(1, 1)}),
            r"has shape \(1, 1\) instead of \(4, 24\); train again",
        ),
        (
            lambda tensors: tensors.update({"base_model.model.transformer.wte.weight": torch.zeros(97, 24)}),
            "has no place in this model",
        ),
    ],
)
def test_adapter_tensors_that_do_not_fit_are_refused(tmp_path, damage, message):
    model = adapted_model("gpt2")
    save_adapter(model, byte_tokenizer(), tmp_path, backbone("gpt2"))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors = dict(sorted(tensors.items()))
    damage(tensors)
    save_file(tensors, tmp_path / "damaged.safetensors")
    fresh = adapted_model("gpt2", trained=False)
    with pytest.raises(CheckpointError, match=message):
        fill_adapter(fresh, fresh.prefix, load_file(tmp_path / "damaged.safetensors").items(), where="models/sft/best")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"r": 2, "lora_alpha": -1}', '"r"', "null"])
def test_adapter_config_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: not an adapter of ours"):
        read_adapter_config(tmp_path / "adapter_config.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 0}, {"r": 2.0}, {"r": True}, {"r": "2"}, {"r": -1}, {"lora_alpha": float("inf")}, {"lora_alpha": "8"},
        {"lora_alpha": float("nan")}, {"lora_dropout": 1.0}, {"target_modules": "c_attn"}, {"target_modules": [5]},
        {"trained_on_base": "fp4"}, {"backbone_sha256": "0"}, {"base_model_name_or_path": 5},
    ],
)  # fmt: skip
def test_adapter_settings_of_another_type_are_refused(tmp_path, changes):
    save_adapter(adapted_model("gpt2"), byte_tokenizer(), tmp_path, backbone("gpt2"))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json") as caught:
        read_adapter_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [lambda t: t.fill_(float("nan")), lambda t: t.to(torch.int32)])
def test_adapter_weights_that_are_no_numbers_are_refused(tmp_path, change):
    save_adapter(adapted_model("gpt2"), byte_tokenizer(), tmp_path, backbone("gpt2"))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = min(tensors)
    tensors[name] = change(tensors[name])
    fresh = adapted_model("gpt2", trained=False)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        fill_adapter(fresh, fresh.prefix, tensors.items(), where="here")


@families
def test_adapter_survives_the_way_to_disk_and_back(tmp_path, family):
    settings = {"r": 4, "alpha": 8.0, "dropout": 0.25, "target_modules": TARGETS[family], "base": "nf4"}
    model = adapted_model(family, **settings)
    save_adapter(model, byte_tokenizer(), tmp_path, backbone(family))
    name, checksums, params = read_adapter_config(tmp_path / "adapter_config.json")
    assert (name, checksums) == ("small", ["0" * 64] * 3)
    assert params == lora(**{**settings, "target_modules": tuple(sorted(TARGETS[family]))})
    fresh = adapted_model(family, trained=False, **settings)
    fill_adapter(fresh, fresh.prefix, load_file(tmp_path / "adapter_model.safetensors").items(), where="here")
    assert torch.equal(logits(fresh.eval()), logits(model.eval()))


def test_merging_adds_in_double_precision():
    base = nn.Linear(64, 64, bias=False)
    layer = LoraLinear(base, lora(r=8, alpha=8.0))
    nn.init.normal_(layer.lora_A)
    nn.init.normal_(layer.lora_B)
    exact = base.weight.double() + layer.lora_B.double() @ layer.lora_A.double()
    x = torch.randn(4, 64)
    merged = layer.merged()
    assert torch.equal(merged.weight, exact.float())
    torch.testing.assert_close(merged(x).double(), F.linear(x.double(), exact), rtol=1e-4, atol=1e-4)


def test_adapters_need_no_gradient_of_the_backbone():
    model = adapted_model("gpt2")
    _, gradients = loss_and_gradients(model, make_batch(random_examples(3), "packed"))
    with_gradient = {name for name, gradient in gradients.items() if gradient is not None}
    assert with_gradient == {name for name in gradients if name.endswith((".lora_A", ".lora_B"))}

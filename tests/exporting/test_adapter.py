"""A LoRA adapter: merged in a GGUF file, and alone for llama.cpp and PEFT, gives the answers of training."""

import json
from pathlib import Path

import gguf
import pytest
import torch
import yaml
from exporting.small import FAMILIES, check_of, records, save_small
from model.test_lora import randomise_b

from instruct.backbones.catalog import CACHE_VARIABLE, find_backbone
from instruct.core.errors import CheckpointError
from instruct.core.files import sha256_of
from instruct.exporting.adapter import adapter_matrices, base_source
from instruct.exporting.export import make_export
from instruct.exporting.gguf_names import stored_tensors
from instruct.exporting.hub import hub_export
from instruct.exporting.llamacpp import adapter_export, gguf_export
from instruct.exporting.source import open_source
from instruct.exporting.tensors import onnx_export, torch_export
from instruct.model.checkpoint import load_checkpoint, save_adapter
from instruct.model.lora import add_lora, merge_lora
from instruct.model.pretrained import load_trained
from instruct.model.settings import LoraParams

pytestmark = pytest.mark.usefixtures("one_thread")
PARAMS = LoraParams(r=4, alpha=8.0, dropout=0.0, target_modules=(), base="fp32")


@pytest.fixture
def adapted(tmp_path, monkeypatch):
    """An adapter checkpoint of a family, opened; its backbone is an entry of the table of the folder that we are in."""

    def make(family):
        files = save_small(tmp_path / "cache" / "small", family)
        names = ("model.safetensors", "config.json", "tokenizer.json")
        pinned = [{"name": n, "size": (files / n).stat().st_size, "sha256": sha256_of(files / n)} for n in names]
        entry = {"family": family, "format": "safetensors", "licence": "MIT", "about": "small", "files": pinned}
        (tmp_path / "models").mkdir()
        (tmp_path / "models/backbones.yaml").write_text(yaml.safe_dump({"small": entry}))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
        model, tokenizer = load_checkpoint(files, torch.device("cpu"))
        add_lora(model, PARAMS, seed=0)
        randomise_b(model)
        save_adapter(model, tokenizer, tmp_path / "adapter", find_backbone("small"))
        return open_source(tmp_path, tmp_path / "adapter", "alpaca")

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrices_make_the_merged_weights_of_the_base_in_llama_cpps_order(family, adapted):
    source = adapted(family)
    matrices = dict(adapter_matrices(source))
    base, merged = dict(stored_tensors(base_source(source).model)), dict(stored_tensors(source.model))
    changed = [name for name in base if f"{name}.lora_a" in matrices]
    assert len(changed) == len(matrices) / 2 == (8 if family == "gpt2" else 14)
    for name in base:
        wanted = base[name]
        if name in changed:
            wanted = wanted + PARAMS.alpha / PARAMS.r * matrices[f"{name}.lora_b"] @ matrices[f"{name}.lora_a"]
        torch.testing.assert_close(merged[name], wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_llama_cpp_gives_our_answers_with_the_adapter_on_its_base(family, adapted, tmp_path):
    pytest.importorskip("xllamacpp")
    source, check = adapted(family), check_of(tmp_path, records(3))
    lines = list(make_export(adapter_export(source, check, "small"), source, check, tmp_path / "out"))
    assert any("3 of 3 the same token for token" in line for line in lines), lines
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "out/adapter.gguf").fields.items()}
    assert (fields["general.type"], fields["adapter.type"], fields["adapter.lora.alpha"]) == ("adapter", "lora", 8.0)
    assert fields["general.license"] == "MIT" and fields["instruct.base_model"] == "small"
    assert not (tmp_path / "out/base.gguf").exists()
    assert "base.gguf" not in json.loads((tmp_path / "out/proof.json").read_text())["files"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_adapter_answers_in_llama_cpp_as_it_does_here(family, adapted, tmp_path):
    pytest.importorskip("xllamacpp")
    source, check = adapted(family), check_of(tmp_path, records(3))
    lines = list(make_export(gguf_export(source, "f32", check, "small"), source, check, tmp_path / "out"))
    assert any("3 of 3 the same token for token" in line for line in lines), lines


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@pytest.mark.parametrize("kind", ["hf", "onnx", "torch"])
def test_other_exports_of_an_adapter_are_its_merged_model(kind, family, adapted, tmp_path):
    """The small Qwen3 has an output head of its own, which no adapter changes."""
    for package in {"hf": ("transformers",), "onnx": ("onnxscript", "onnxruntime"), "torch": ()}[kind]:
        pytest.importorskip(package)
    source, check = adapted(family), check_of(tmp_path, records(3))
    exports = {
        "hf": lambda: hub_export(source, "fp32", check, "small", tmp_path),
        "onnx": lambda: onnx_export(source, cache=True, int8=False),
        "torch": lambda: torch_export(source, cache=True, legacy=False),
    }
    lines = list(make_export(exports[kind](), source, check, tmp_path / "out"))
    assert any("3 of 3 the same token for token" in line for line in lines), lines


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_the_exported_adapter_and_gives_our_logits(family, adapted, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    source, check = adapted(family), check_of(tmp_path, [])
    list(make_export(adapter_export(source, check, "small"), source, check, tmp_path / "out"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "cache/small", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    ids = torch.randint(0, 250, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, source.model(ids), atol=1e-3, rtol=1e-4)


def test_an_adapter_of_an_adapter_is_one_model_and_is_exported_whole_alone(adapted, tmp_path):
    first = adapted("gpt2")
    model, tokenizer = load_trained(Path("adapter"), torch.device("cpu"))
    add_lora(model, PARAMS, seed=1)
    randomise_b(model)
    (tmp_path / "models/tuned").mkdir()
    (tmp_path / "adapter").rename(tmp_path / "models/sft")
    save_adapter(model, tokenizer, tmp_path / "models/tuned", Path("models/sft"))
    merge_lora(model)
    source = open_source(tmp_path, Path("models/tuned"), "alpaca")
    for name, weight in source.model.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name])
    assert any(not torch.equal(a, b) for a, b in zip(source.model.parameters(), first.model.parameters(), strict=True))
    check = check_of(tmp_path, [])
    with pytest.raises(CheckpointError, match=r"models/tuned: is an adapter of models/sft"):
        adapter_export(source, check, "small")
    list(make_export(hub_export(source, "fp32", check, "small", tmp_path), source, check, tmp_path / "out"))
    assert (tmp_path / "out/model.safetensors").is_file()

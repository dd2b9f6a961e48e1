"""ONNX and torch.export give our logits, for any batch and length, where the project cannot be imported."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exporting.small import FAMILIES, check_of, made_to_end, padded_source, records, small_source

from instruct.core.errors import InstructError
from instruct.core.records import Turn
from instruct.exporting.export import make_export
from instruct.exporting.proof import prove
from instruct.exporting.runners.graph import Graph
from instruct.exporting.running import request_of, run_export
from instruct.exporting.tensors import DEPRECATED, onnx_export, torch_export
from instruct.model.decoder import repeat_keys

pytestmark = pytest.mark.usefixtures("one_thread")


def export_of(program, source, cache):
    if program == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        return onnx_export(source, cache=cache, int8=False)
    return torch_export(source, cache=cache, legacy=program == "torchscript")


def theirs(graph, ids, mask, split):
    """The logits of the program, asked in two passes where there is a cache."""
    parts, past = [], graph.empty(len(ids))
    for begin, end in ((0, split), (split, ids.shape[1])) if split else ((0, ids.shape[1]),):
        logits, past = graph.step(ids[:, begin:end], mask[:, :end], past)
        parts.append(logits)
    return np.concatenate(parts, axis=1)


def ours(model, ids, padding):
    places = torch.arange(ids.shape[1])
    past = places <= places[:, None]
    filled = places >= torch.tensor(padding)[:, None, None, None]  # (rows, 1, 1, length)
    seen = past & filled | torch.eye(len(places), dtype=torch.bool)  # a padding place sees itself: no NaN
    positions = (places - torch.tensor(padding)[:, None]).clamp(min=0)

    def attend(layer, q, k, v):
        return F.scaled_dot_product_attention(q, repeat_keys(q, k), repeat_keys(q, v), attn_mask=seen)

    with torch.no_grad():
        return model.logits(model.hidden_states(ids, positions, attend)).numpy()


def write(export, folder):
    (folder / "out").mkdir()
    export.write(folder / "out")
    return export


def agree(source, export, folder, cache):
    generator, runner = torch.Generator().manual_seed(3), export.runner(folder / "out")
    graph = Graph({**runner.options, "path": str(runner.path), "threads": 1})
    for rows, length, padding in ((1, 1, [0]), (1, 200, [0]), (3, 2, [0, 0, 1]), (3, 57, [0, 11, 56])):
        ids = torch.randint(0, 250, (rows, length), generator=generator)
        mask = (torch.arange(length)[None] >= torch.tensor(padding)[:, None]).long()
        split = length // 2 if cache else 0
        found = theirs(graph, ids.numpy(), mask.numpy(), split)
        seen = mask.bool().numpy()
        assert np.abs(found - ours(source.model, ids, padding))[seen].max() < 1e-4


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A Llama with a cache, and its ONNX program: a writing takes seconds."""
    folder = tmp_path_factory.mktemp("written")
    source = small_source(folder, "llama")
    return source, write(export_of("onnx", source, cache=True), folder), folder


def test_logits_are_ours_in_any_batch_and_length(written):
    agree(*written, cache=True)


def test_the_rotations_speeds_are_torchs_bit_for_bit(written):
    """The exporter would compute the power by NumPy: at position 8,192 a last digit turns a pair by 1e-3."""
    onnx = pytest.importorskip("onnx")
    _, _, folder = written
    stored = [onnx.numpy_helper.to_array(one) for one in onnx.load(folder / "out/model.onnx").graph.initializer]
    speeds = 5000.0 ** (torch.arange(0, 16, 2) / 16)
    assert [one.dtype for one in stored if np.array_equal(one, speeds.numpy())] == [np.float32]


@pytest.mark.slow
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("program", ["onnx", "pt2", "torchscript"])
def test_logits_are_ours_in_every_program(program, family, cache, tmp_path):
    source = small_source(tmp_path, family)
    agree(source, write(export_of(program, source, cache), tmp_path), tmp_path, cache)


@pytest.mark.parametrize(
    ("program", "forbidden"),
    [
        pytest.param("onnx", {"instruct", "torch", "transformers"}, marks=pytest.mark.slow),
        pytest.param("pt2", {"instruct", "onnxruntime", "transformers"}, marks=pytest.mark.slow),
    ],
)
def test_the_program_runs_without_the_project_and_gives_the_same_answers(program, forbidden, tmp_path):
    source = small_source(tmp_path, "gpt2")
    made_to_end(source, records(1)[0])
    export, check = export_of(program, source, cache=True), check_of(tmp_path, records(3), most=50)
    (tmp_path / "out").mkdir()
    export.write(tmp_path / "out")
    proof = prove(source, export.runner(tmp_path / "out"), check, tmp_path / "out")
    assert (proof.prompts_alike, proof.same_tokens, proof.same_texts) == (3, 3, 3)
    assert proof.run.said[0].ended
    assert not forbidden & set(proof.run.imported)


def test_a_graph_gives_no_logits_of_padding_rows(tmp_path):
    """Programs take the largest logit; that of a padding row is not a token's."""
    source, check = padded_source(tmp_path, "qwen3"), check_of(tmp_path, records(2))  # with its own head
    export = write(torch_export(source, cache=False, legacy=True), tmp_path)
    runner = export.runner(tmp_path / "out")
    graph = Graph({**runner.options, "path": str(runner.path), "threads": 1})
    logits, _ = graph.step(np.array([[1, 2, 3]]), np.ones((1, 3), np.int64), [])
    assert logits.shape[-1] == source.tokenizer.vocab_size
    assert prove(source, runner, check, tmp_path / "out").same_tokens == 2


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """A small Qwen with spare rows as TorchScript, which is written fast; its first answer ends."""
    folder = tmp_path_factory.mktemp("scripted")
    source = small_source(folder, "qwen2", spare=6)
    made_to_end(source, records(1)[0])
    (chat, *_) = records(1)
    examples = [*records(3), replace(chat, id="chat", history=(Turn("Hello.", "", "Good day."),), system="Be brief.")]
    return source, write(torch_export(source, cache=False, legacy=True), folder), folder / "out", examples


def prove_changed(scripted, folder, name, change):
    """The proof after a change of a file beside the graph."""
    source, export, written, examples = scripted
    shutil.copytree(written, folder / "out")
    path = folder / "out" / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return prove(source, export.runner(folder / "out"), check_of(folder, examples, most=30), folder / "out")


def test_prompts_are_made_with_the_files_beside_the_graph(scripted, tmp_path):
    proof = prove_changed(scripted, tmp_path, "prompt.json", lambda form: form)
    assert (proof.prompts_alike, proof.same_tokens) == (4, 4) and proof.run.said[0].ended
    assert "prompt.json" in proof.how and "chats" in proof.how


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prompt.json", lambda form: {**form, "prompt": "x{instruction}", "prompt_with_input": "{instruction}{input}"}),
        ("tokenizer.json", lambda file: {**file, "model": {**file["model"], "merges": []}}),
    ],
)
def test_a_wrong_file_beside_the_graph_is_found_in_the_prompts(name, change, scripted, tmp_path):
    proof = prove_changed(scripted, tmp_path, name, change)
    assert (proof.prompts_alike, proof.same_tokens) == (1, 1)  # the chat, which comes as tokens


def test_a_missing_stop_token_beside_the_graph_is_found(scripted, tmp_path):
    proof = prove_changed(scripted, tmp_path, "prompt.json", lambda form: {**form, "stop_token_ids": []})
    assert proof.prompts_alike == 4 and proof.same_tokens < 4
    assert scripted[0].tokenizer.eos_id in proof.run.said[0].tokens


def test_a_broken_file_beside_the_graph_is_refused(scripted, tmp_path):
    with pytest.raises(InstructError, match=r"graph cannot run the export: .*stop_token_ids"):
        prove_changed(scripted, tmp_path, "prompt.json", lambda form: {})


@pytest.mark.slow
def test_what_is_beside_the_graph_is_stated_and_true(tmp_path):
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxscript")
    source, check = small_source(tmp_path, "llama"), check_of(tmp_path, [])
    lines = list(make_export(onnx_export(source, cache=True, int8=False), source, check, tmp_path / "out"))
    about = json.loads((tmp_path / "out/proof.json").read_text())["about"]
    graph = onnx.load(tmp_path / "out/model.onnx", load_external_data=False)
    assert [one.version for one in graph.opset_import if not one.domain] == [about["opset"]]
    assert any(f"opset {about['opset']}" in line for line in lines)
    assert [one.name for one in graph.graph.input] == about["inputs"]
    sizes = [[d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in graph.graph.input]
    assert sizes[:4] == [["batch", "new"], ["batch", "all"], ["batch", "new"], ["batch", 2, "past", 16]]
    assert about["external_data"] and (tmp_path / "out/model.onnx.data").is_file()


@pytest.mark.slow
def test_int8_is_smaller_and_answers(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    source = small_source(tmp_path, "llama")
    sizes = {}
    for int8 in (False, True):
        folder = tmp_path / f"int8-{int8}"
        folder.mkdir()
        export = onnx_export(source, cache=True, int8=int8)
        export.write(folder)
        sizes[int8] = sum(path.stat().st_size for path in folder.iterdir() if "onnx" in path.name)
        run = run_export(export.runner(folder), request_of(source, records(2), 8, 1))
        assert all(said.tokens for said in run.said)
    assert sizes[True] < 0.7 * sizes[False]


@pytest.mark.slow
def test_torchscript_says_that_it_is_deprecated_and_is_written_on_demand_only(tmp_path):
    source, check = small_source(tmp_path, "gpt2"), check_of(tmp_path, records(2))
    plain = list(make_export(torch_export(source, cache=True, legacy=False), source, check, tmp_path / "a"))
    old = list(make_export(torch_export(source, cache=True, legacy=True), source, check, tmp_path / "b"))
    assert DEPRECATED in old and DEPRECATED not in plain
    assert (tmp_path / "a/model.pt2").is_file() and (tmp_path / "b/model.ts").is_file()
    assert check.words in (tmp_path / "b/proof.json").read_text()

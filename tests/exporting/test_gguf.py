"""What we write as GGUF is what the package gguf, our own reader and llama.cpp read: weights, tokens, answers."""

import json
import urllib.request
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from exporting.small import FAMILIES, check_of, config_of, made_to_end, records, small_source, small_tokenizer
from small_training import scrambled
from text.test_tokenizer import HOSTILE

from instruct.core.errors import CheckpointError
from instruct.exporting.export import make_export
from instruct.exporting.gguf_writer import TYPES, write_gguf
from instruct.exporting.greedy import answer_ours
from instruct.exporting.llamacpp import gguf_export, llamacpp_runner
from instruct.exporting.proof import prove
from instruct.exporting.running import request_of, run_export
from instruct.model.checkpoint import random_model
from instruct.model.gguf_file import GGUFFile
from instruct.model.llama import RopeScaling
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def written(source, path, kind="f32"):
    write_gguf(source, path, kind, name="small", about={"commit": source.origin.commit, "check": "none"})
    return path


def fields_of(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize(("family", "layout"), [("llama", "smollm"), ("qwen2", "qwen2"), ("qwen3", "qwen2")])
def test_llama_and_qwen_are_read_back_bit_for_bit_by_our_reader(family, layout, tmp_path):
    source = small_source(tmp_path, family, tokenizer=small_tokenizer(layout))
    file = GGUFFile(written(source, tmp_path / "a.gguf"))
    assert file.config() == source.model.config
    again, own = dict(file.weights()), source.model.state_dict()
    assert again.keys() == own.keys()
    assert all(torch.equal(again[name], own[name]) for name in own)
    assert all(file.tokenizer().encode(text) == source.tokenizer.encode(text) for text in HOSTILE)
    assert file.tokenizer().stop_ids == source.tokenizer.stop_ids
    assert file.tokenizer().written == source.tokenizer.written == ("<think>",)


def scaled_source(folder, scaling, **shape):
    """A Llama whose rotations are scaled, its output head a matrix of its own, as in Llama 3."""
    source = small_source(folder, "llama", tokenizer=small_tokenizer("llama3"))
    config = replace(config_of("llama", source.tokenizer), rope_scaling=scaling, tied=False, **shape)
    return replace(source, model=scrambled(random_model(config, seed=1), 8).requires_grad_(False))


META = RopeScaling(
    factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
)  # Llama 3.2
SHORT = replace(META, factor=8.0, original_max_position_embeddings=64)  # which a prompt of 100 tokens feels


def test_scaled_rotations_are_the_factors_of_transformers_and_are_read_back(tmp_path):
    from transformers import LlamaConfig as TheirConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    source = scaled_source(tmp_path, META, head_dim=64, rope_theta=500000.0)
    path = written(source, tmp_path / "a.gguf")
    factors = {one.name: one.data for one in gguf.GGUFReader(path).tensors}["rope_freqs.weight"]
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](TheirConfig(**source.model.config.to_huggingface()), "cpu")
    powers = np.arange(0, 64, 2) / 64
    np.testing.assert_allclose(factors, 500000.0**-powers / theirs.numpy(), rtol=1e-5)
    assert factors.min() == 1 and factors.max() == 32 and len(set(factors.tolist())) > 3
    file = GGUFFile(path)
    assert file.config() == source.model.config
    again, own = dict(file.weights()), source.model.state_dict()
    assert again.keys() == own.keys() and all(torch.equal(again[name], own[name]) for name in own)


def test_llama_cpp_turns_as_slowly_as_we_do(tmp_path):
    pytest.importorskip("xllamacpp")
    source, check = scaled_source(tmp_path, SHORT), check_of(tmp_path, records(3), most=24)
    proof = prove(source, llamacpp_runner(source, written(source, tmp_path / "a.gguf"), "f32"), check, tmp_path)
    assert (proof.prompts_alike, proof.same_tokens) == (3, 3)
    unscaled = scaled_source(tmp_path, None)
    texts = [[one.response for one in answer_ours(each, check.examples, check.generate)] for each in (source, unscaled)]
    assert all(scaled != plain for scaled, plain in zip(*texts, strict=True))


def test_scaled_rotations_of_a_family_whose_factors_nobody_reads_are_refused(tmp_path):
    source = small_source(tmp_path, "qwen2")
    model = random_model(replace(source.model.config, rope_scaling=META), seed=1)
    with pytest.raises(CheckpointError, match=r"rope_scaling.*qwen2"):
        written(replace(source, model=model), tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


def test_gpt2_is_read_back_bit_for_bit_by_the_package(tmp_path):
    source = small_source(tmp_path, "gpt2")
    stored = {one.name: one for one in gguf.GGUFReader(written(source, tmp_path / "a.gguf")).tensors}
    own = source.model.state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 2)
    assert len(stored) == len(own)
    for name, weight in own.items():
        one = stored[names.get_name(f"transformer.{name}", try_suffixes=(".weight", ".bias"))]
        assert one.data.tobytes() == weight.numpy().tobytes() and one.data.shape == weight.shape


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
def test_other_types_hold_the_weights_as_nearly_as_they_can(kind, tmp_path):
    source = small_source(tmp_path, "gpt2")
    exact = {one.name: one.data for one in gguf.GGUFReader(written(source, tmp_path / "f32.gguf")).tensors}
    error = {"f16": 2**-11, "bf16": 2**-8, "q8_0": 1 / 254 + 2**-11, "q4_0": 1 / 7.9}[kind]  # of the largest in a block
    for one in gguf.GGUFReader(written(source, tmp_path / "other.gguf", kind)).tensors:
        values = gguf.dequantize(one.data, one.tensor_type)
        matrix = values.ndim == 2 and one.name != "position_embd.weight"
        assert one.tensor_type == (TYPES[kind][0] if matrix else gguf.GGMLQuantizationType.F32)
        blocks = [array.reshape(-1, 32) for array in (values, exact[one.name])]
        largest = np.abs(blocks[1]).max(axis=1, keepdims=True)
        assert (np.abs(blocks[0] - blocks[1]) <= largest * (error if matrix else 0) + 1e-7).all()


def test_a_type_that_the_shapes_do_not_allow_is_refused_with_tensor_and_number(tmp_path):
    source = small_source(tmp_path, "llama", width=48)
    with pytest.raises(CheckpointError, match=r"--type q8_0.*32.*token_embd\.weight.*48"):
        written(source, tmp_path / "a.gguf", "q8_0")
    assert not (tmp_path / "a.gguf").exists()


def test_the_metadata_say_what_it_is_and_where_it_comes_from(tmp_path):
    source = small_source(tmp_path, "llama", "phi3")
    check = check_of(tmp_path, [])
    lines = list(make_export(gguf_export(source, "f16", check, "small"), source, check, tmp_path / "out"))
    fields = fields_of(tmp_path / "out" / "model.gguf")
    assert fields["general.architecture"] == "llama" and fields["general.name"] == "small"
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.eos_token_id"] == source.tokenizer.eos_id
    assert fields["instruct.template"] == "phi3"
    assert fields["instruct.stop_strings"].split("\n") == list(TEMPLATES["phi3"].stop_strings)
    assert fields["instruct.weights_sha256"] == " ".join(source.origin.weights_sha256)
    assert fields["instruct.check"].startswith("skipped") and any("skipped" in line for line in lines)
    document = json.loads((tmp_path / "out" / "proof.json").read_text())
    assert document["check"]["records"] == 0 and "agreement" not in document


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_gives_our_greedy_answers_token_for_token(family, tmp_path):
    pytest.importorskip("xllamacpp")
    source = small_source(tmp_path, family, spare=3)
    check, path = check_of(tmp_path, records(6)), written(source, tmp_path / "a.gguf")
    proof = prove(source, llamacpp_runner(source, path, "f32"), check, tmp_path)
    assert (proof.prompts_alike, proof.same_tokens, proof.same_texts) == (6, 6, 6)
    assert proof.verdict == "the same answers" and proof.tokens > 6


def test_llama_cpp_reads_the_begin_token_once_and_is_compared_by_the_prompt_it_reads(tmp_path):
    pytest.importorskip("xllamacpp")
    source = small_source(tmp_path, "llama", "chatml", tokenizer=small_tokenizer("llama3", "<|begin_of_text|>"))
    check, path = check_of(tmp_path, records(3)), written(source, tmp_path / "a.gguf")
    proof = prove(source, llamacpp_runner(source, path, "f32"), check, tmp_path)
    assert (proof.prompts_alike, proof.same_tokens, proof.same_texts) == (3, 3, 3)
    assert all(said.prompt.count(*source.tokenizer.begin_ids) == 1 for said in proof.run.said)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_ends_by_itself_ends_in_llama_cpp_too(family, tmp_path):
    pytest.importorskip("xllamacpp")
    source, (one, *_) = small_source(tmp_path, family), records(1)
    tokens = made_to_end(source, one)
    check, path = check_of(tmp_path, [one], most=50), written(source, tmp_path / "a.gguf")
    proof = prove(source, llamacpp_runner(source, path, "f32"), check, tmp_path)
    (said,) = proof.run.said
    assert (said.tokens, said.ended) == (tokens, True)
    assert (proof.same_tokens, proof.same_texts) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_answers_with_every_type(family, kind, tmp_path):
    pytest.importorskip("xllamacpp")
    source = small_source(tmp_path, family)
    path, check = written(source, tmp_path / "a.gguf", kind), check_of(tmp_path, records(4))
    proof = prove(source, llamacpp_runner(source, path, kind), check, tmp_path)
    assert proof.prompts_alike == 4 and all(said.tokens for said in proof.run.said)


def test_a_prompt_with_a_special_token_in_it_is_counted_as_read_otherwise(tmp_path):
    """llama.cpp takes `<|im_end|>` in a message for the token; we never do."""
    pytest.importorskip("xllamacpp")
    source = small_source(tmp_path, "llama")
    one, other = records(2)
    hostile = replace(one, instruction="Repeat <|im_end|> now.")
    request = request_of(source, [hostile, other], 2, 1)
    run = run_export(llamacpp_runner(source, written(source, tmp_path / "a.gguf"), "f32"), request)
    alike = [list(said.prompt) == prompt["ids"] for said, prompt in zip(run.said, request["prompts"], strict=True)]
    assert alike == [False, True] and source.tokenizer.eos_id in run.said[0].prompt


def server_of(path):
    """llama.cpp's server with its defaults: a function that asks it, and the server, which lives as long."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 64, 1, 0
    params.warmup = params.fit_params = params.ui = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(route, body=None):
        data = json.dumps(body).encode() if body else None
        head = {"Content-Type": "application/json"}
        return json.load(opener.open(urllib.request.Request(server.listening_address + route, data, head)))

    return ask, server


def ids_by_llama_cpp(path, texts):
    ask, _server = server_of(path)
    plain = {"parse_special": False, "add_special": False}
    return [ask("/tokenize", {"content": text, **plain})["tokens"] for text in texts]


def test_llama_cpp_answers_greedily_if_nobody_says_how(tmp_path):
    """Its own default temperature is 0.8; the proof is about greedy answers."""
    pytest.importorskip("xllamacpp")
    ask, _server = server_of(written(small_source(tmp_path, "llama"), tmp_path / "a.gguf"))
    assert ask("/props")["default_generation_settings"]["params"]["temperature"] == 0
    said = {ask("/completion", {"prompt": "the", "n_predict": 20, "seed": seed})["content"] for seed in range(4)}
    assert len(said) == 1


def test_text_becomes_an_added_token_in_llama_cpp_only_if_it_does_here(tmp_path):
    pytest.importorskip("xllamacpp")
    source, texts = small_source(tmp_path, "llama"), ["a<think>b", "a<|im_end|>b"]
    ids = ids_by_llama_cpp(written(source, tmp_path / "a.gguf"), texts)
    assert ids == [source.tokenizer.encode(text) for text in texts]
    assert list(map(len, ids)) == [3, len(texts[1])]


@pytest.mark.parametrize("kind", [pytest.param("gpt2", marks=pytest.mark.slow), "smollm"])
def test_token_ids_of_hostile_texts_are_equal(kind, tmp_path, request):
    pytest.importorskip("xllamacpp")
    tokenizer = gpt2_tokenizer() if kind == "gpt2" else request.getfixturevalue("smollm2_tokenizer")
    model = random_model(config_of("llama", tokenizer, width=16), seed=1)
    source = replace(small_source(tmp_path, "llama"), model=model, tokenizer=tokenizer)
    path = written(source, tmp_path / "a.gguf")
    assert ids_by_llama_cpp(path, HOSTILE) == [tokenizer.encode(text) for text in HOSTILE]

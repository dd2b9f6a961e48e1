"""A proof finds what is not the same, and says how much; an export is whole or not there."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import warm
from exporting.small import ROOT, check_of, config_of, made_to_end, padded_source, records, save_small, small_source
from results.sample import make_run

from instruct import cli
from instruct.checks.rules import is_right
from instruct.checks.schema import parse_check
from instruct.cli.results import read_runs
from instruct.comparing.compare import compare
from instruct.core.errors import CheckpointError, DataError, InstructError, ParamsError
from instruct.core.records import Turn, write_records
from instruct.exporting import commands, hub, running
from instruct.exporting.export import Export, make_export, read_check
from instruct.exporting.greedy import answer_ours, cut_answer, find_parting
from instruct.exporting.hub import hub_export, model_card, push_line
from instruct.exporting.proof import proof_document, proof_run, prove, spread_over
from instruct.exporting.running import Run, Runner, Said, request_of, require_packages, run_export
from instruct.exporting.source import open_source
from instruct.exporting.whole import PROOF, whole_folder
from instruct.generation.decode import generate
from instruct.model.checkpoint import load_checkpoint, random_model
from instruct.statistics import paired_test
from instruct.text.encoding import encode_prompt

CLOSED = ("r0", "r1", "r2", "r3")
pytestmark = pytest.mark.usefixtures("one_thread")


def greedy(source, prompt, most):
    """Token after token by whole passes: slow, and nothing of the code under test."""
    tokens = []
    while len(tokens) < most:
        with torch.no_grad():
            logits = source.model(torch.tensor([prompt + tokens]))[0, -1, : source.tokenizer.vocab_size]
        token = int(logits.argmax())
        if token in source.tokenizer.stop_ids:
            return tuple(tokens), True, logits
        tokens.append(token)
    return tuple(tokens), False, logits


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_parting_is_the_first_token_that_greedy_decoding_would_not_choose(family, tmp_path):
    source = small_source(tmp_path, family)
    prompt = source.tokenizer.encode(source.template.render("Say it."))
    tokens, ended, _ = greedy(source, prompt, 10)
    said = Said(id="r", prompt=tuple(prompt), tokens=tokens, ended=ended)
    assert find_parting(source, said, 1e-3) is None
    for place in (0, 4, 9):
        changed = (*tokens[:place], (tokens[place] + 1) % 200, *tokens[place + 1 :])
        parting = find_parting(source, replace(said, tokens=changed), 1e-3)
        _, _, logits = greedy(source, prompt + list(tokens[:place]), 1)
        margin = float(logits[tokens[place]] - logits[changed[place]])
        assert (parting.place, parting.tie) == (place, margin <= 1e-3)
        assert parting.margin == pytest.approx(margin, abs=1e-4)
        assert find_parting(source, replace(said, tokens=changed), 1e3).tie
    assert find_parting(source, replace(said, tokens=tokens[:5], ended=True), 1e-3).place == 5


@pytest.mark.parametrize(
    ("text", "kept", "reason"),
    [
        ("Yes.### Input: more", "Yes.### Input:", "stop_string"),
        ("ab" * 6, "ab" * 4, "repetition"),
        ("abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrst", "length"),
        ("Yes.", "Yes.", "end_of_text"),
    ],
)
def test_an_answer_is_cut_where_generation_would_have_ended_it(text, kept, reason, tmp_path):
    source, check = small_source(tmp_path, "gpt2"), check_of(tmp_path, [], most=20)
    params = replace(check.generate, max_repeats=4)
    said = Said(id="r", prompt=(1,), tokens=tuple(text.encode()), ended=True)
    cut, found = cut_answer(source, said, params)
    assert (bytes(cut.tokens).decode(), found) == (kept, reason)
    assert cut.ended == (reason == "end_of_text")


def test_records_are_spread_over_the_whole_test_set():
    examples = records(10)
    assert [one.id for one in spread_over(examples, 4)] == ["r0", "r2", "r5", "r7"]
    assert spread_over(examples, None) == spread_over(examples, 99) == examples
    assert spread_over(examples, 0) == []


def checks_of(source, check):
    """Of six records four are closed, and the checkpoint is right on two of them; one is open, one has no check."""
    said = [one.response for one in answer_ours(source, check.examples, check.generate)]
    right = [{"type": "exact", "accept": [text]} for text in said[:2]]
    values = [*right, *2 * [{"type": "accept", "accept": ["no such words"]}], {"type": "open"}]
    return {f"r{i}": parse_check(value, "r") for i, value in enumerate(values)}


@pytest.fixture(scope="module")
def proved(tmp_path_factory):
    """A folder of the hub's layout with the weights of another seed in it, which answers otherwise; and its source."""
    pytest.importorskip("transformers")
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("proved")
    source, check = small_source(folder, "llama"), check_of(folder, records(6), most=50)
    made_to_end(source, records(1)[0])
    check = replace(check, checks=checks_of(source, check))
    right = hub_export(source, "fp32", check, "small", folder)

    def spoil(place):
        right.write(place)
        other = small_source(folder / "other", "llama")
        weight = other.model.layers[1].mlp.down_proj.weight
        weight.copy_(weight.flip(0))
        hub_export(replace(other, folder=source.folder), "fp32", check, "small", folder).write(place)
        return []

    lines = {}
    for name, export in (("right", right), ("wrong", replace(right, write=spoil))):
        lines[name] = list(make_export(export, source, check, folder / name))
    yield folder, source, check, lines
    torch.set_num_threads(2)


def test_transformers_loads_the_hub_folder_and_gives_the_same_answers(proved):
    folder, source, check, lines = proved
    document = json.loads((folder / "right" / PROOF).read_text())
    agreement = document["agreement"]
    assert agreement["prompts_of_the_same_tokens"] == agreement["answers_of_the_same_tokens"] == 6
    assert agreement["answers_of_the_same_text"] == 6 and document["verdict"] == "the same answers"
    assert {one["verdict"] for one in document["scores"]} == {"the same answers"}
    assert document["runtime"]["name"] == "transformers"
    assert json.loads((folder / "right/answers/export.json").read_text())[0]["stop_reason"] == "end_of_text"
    own = answer_ours(source, check.examples, check.generate)
    said = json.loads((folder / "right/answers/export.json").read_text())
    assert [one["response"] for one in said] == [one.response for one in own]
    assert any("6 of 6 the same token for token" in line for line in lines["right"])


def test_other_weights_are_found_and_scored(proved):
    folder, _, check, lines = proved
    document = json.loads((folder / "wrong" / PROOF).read_text())
    assert document["agreement"]["answers_of_the_same_tokens"] < 6
    assert document["agreement"]["partings"] and document["verdict"] != "the same answers"
    run = proof_run(folder / "wrong")
    assert run.results.names == ("checkpoint", "export") and run.results.test.records == 6
    scores = run.table.scores["similarity"]
    ids = [id_ for id_ in scores["export"] if id_ in ("r4", "r5")]
    pair = [[scores[name][id_] for id_ in ids] for name in ("checkpoint", "export")]
    paired = paired_test(*pair, resamples=100, seed=check.evaluate.seed, groups=ids)
    found = {one["name"]: one for one in document["scores"]}["open_similarity"]
    assert found["records"] == 2
    assert found["difference"]["mean"] == pytest.approx(paired.difference.mean, abs=1e-3)
    assert found["difference"]["p_value"] == pytest.approx(paired.p_value, abs=1e-6)
    assert not any("6 of 6 the same token" in line for line in lines["wrong"])


def test_right_answers_come_first_and_decide(proved):
    folder, _, check, lines = proved
    for name in ("right", "wrong"):
        document = json.loads((folder / name / PROOF).read_text())
        said = {one["id"]: one for one in json.loads((folder / name / "answers/export.json").read_text())}
        rights = [is_right(check.checks[id_], said[id_]["response"], said[id_]["instruction"]) for id_ in CLOSED]
        first = document["scores"][0]
        assert (first["name"], first["records"], first["checkpoint"]["mean"]) == ("accuracy", 4, 50.0)
        assert first["export"]["mean"] == 25.0 * sum(rights)
        assert first["difference"]["mean"] == first["export"]["mean"] - 50.0
        assert document["verdict"] == first["verdict"]
        scores = proof_run(folder / name).scores["accuracy"]
        assert [scores[id_] for id_ in CLOSED] == [100.0 * one for one in rights]
        assert scores["r4"] is scores["r5"] is None
        assert any(f"export {25.0 * sum(rights):.1f}" in line for line in lines[name])
    comparison = compare([proof_run(folder / "right")], [proof_run(folder / "wrong")], chosen=(), anyway=False)
    primary = comparison.scores[0]
    assert (primary.name, primary.count, primary.a, primary.b) == ("accuracy", 4, 50.0, 25.0 * sum(rights))


def test_the_checkpoint_is_asked_with_the_tokens_of_training_whatever_the_template(tmp_path):
    """The markers of a chat are single tokens, of several turns too."""
    source, (one, *_) = small_source(tmp_path, "llama", "chatml"), records(1)
    chat = replace(one, id="chat", system="Be brief.", history=(Turn("Hello.", "", "Good day."),))
    check = check_of(tmp_path, [one, chat], most=8)
    for example, answer in zip(check.examples, answer_ours(source, check.examples, check.generate), strict=True):
        prompt = encode_prompt(source.tokenizer, source.template.prompt(example.turns, example.system))
        tokens, _, _ = greedy(source, prompt, 8)
        assert answer.prompt_tokens == len(prompt) and prompt.count(source.tokenizer.eos_id) > 0
        assert answer.response == source.tokenizer.decode(tokens).strip()


def test_a_long_check_is_told_before_it_begins(tmp_path):
    source = small_source(tmp_path, "gpt2")
    examples = [replace(one, id=f"r{i}") for i, one in enumerate(records(6) * 7)]
    check = replace(check_of(tmp_path, examples, most=2), total=99)
    first = next(make_export(hub_export(source, "fp32", check, "n", tmp_path), source, check, tmp_path / "out"))
    assert all(word in first for word in ("42 of 99", "min", "--check"))
    assert not (tmp_path / "out").exists()


def test_no_record_is_answered_twice_to_tell_the_time(tmp_path, monkeypatch):
    source = small_source(tmp_path, "gpt2")
    examples = [replace(one, id=f"r{i}") for i, one in enumerate(records(6) * 7)]
    check, asked = check_of(tmp_path, examples, most=2), []

    def spy(model, tokenizer, prompts, **more):
        asked.extend(prompts)
        return generate(model, tokenizer, prompts, **more)

    def no_program(runner, request, scratch):
        said = [Said(id=one["id"], prompt=tuple(one["ids"]), tokens=(), ended=True) for one in request["prompts"]]
        return Run(said=tuple(said), runtime={"name": "none"}, seconds=1.0, peak_bytes=1)

    monkeypatch.setattr("instruct.exporting.proof.run_export", no_program)
    monkeypatch.setattr("instruct.exporting.greedy.generate", spy)
    list(make_export(hub_export(source, "fp32", check, "n", tmp_path), source, check, tmp_path / "out"))
    assert sorted(asked) == sorted(one.id for one in examples)
    monkeypatch.undo()
    said = json.loads((tmp_path / "out/answers/checkpoint.json").read_text())
    own = answer_ours(source, examples, check.generate)
    assert [(one["id"], one["response"]) for one in said] == [(one.id, one.response) for one in own]


def test_a_prompt_without_room_for_an_answer_is_left_out_of_the_check_and_counted(tmp_path, monkeypatch, capsys):
    """`generate.over_long: truncate` cuts such a prompt; llama.cpp would refuse it, and the export would fail."""
    save_small(tmp_path / "small", "gpt2")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    examples = [*records(2), replace(records(1)[0], id="long", instruction="word " * 60)]
    write_records(tmp_path / "test.json", examples)
    monkeypatch.chdir(tmp_path)
    _, check = commands._open(Path("small"), "alpaca", "all", Path("test.json"))
    assert "1 of 3" in capsys.readouterr().out and check.words.startswith("2 of 3")
    assert [one.instruction for one in check.examples] == [one.instruction for one in records(2)]


def test_tokens_that_are_cut_off_took_time_too(tmp_path, monkeypatch):
    source = small_source(tmp_path, "gpt2")
    check, text = check_of(tmp_path, records(1), most=20), "Yes.### Input: more"

    def program(runner, request, scratch):
        (one,) = request["prompts"]
        said = Said(id=one["id"], prompt=tuple(one["ids"]), tokens=tuple(text.encode()), ended=True)
        return Run(said=(said,), runtime={"name": "none"}, seconds=2.0, peak_bytes=1)

    monkeypatch.setattr("instruct.exporting.proof.run_export", program)
    proof = prove(source, Runner(script="hub", needs=(), path=tmp_path), check, tmp_path)
    assert bytes(proof.run.said[0].tokens).decode() == "Yes.### Input:"
    cost = proof_document(proof, check, 1)["cost_here"]
    assert (cost["tokens"], cost["tokens_per_second"]) == (len(text), len(text) / 2)


def test_an_answer_to_a_prompt_of_other_tokens_is_not_counted_as_the_same(tmp_path, monkeypatch):
    source = small_source(tmp_path, "gpt2")
    check = check_of(tmp_path, records(2), most=8)

    def program(runner, request, scratch):
        prompts = [one["ids"] for one in request["prompts"]]
        prompts[1] = [*prompts[1], 32]
        said = [
            Said(id=one.id, prompt=tuple(ids), tokens=greedy(source, ids, 8)[0], ended=False)
            for one, ids in zip(check.examples, prompts, strict=True)
        ]
        return Run(said=tuple(said), runtime={"name": "none"}, seconds=1.0, peak_bytes=1)

    monkeypatch.setattr("instruct.exporting.proof.run_export", program)
    proof = prove(source, Runner(script="hub", needs=(), path=tmp_path), check, tmp_path)
    assert (proof.prompts_alike, proof.same_tokens, proof.partings) == (1, 1, ())


@pytest.mark.parametrize("length", [0, 3, 7])
def test_an_answer_that_ends_too_early_is_not_counted_as_the_same(length, tmp_path, monkeypatch):
    source = small_source(tmp_path, "gpt2")
    check = check_of(tmp_path, records(2), most=8)

    def program(runner, request, scratch):
        said = [
            Said(id=one["id"], prompt=tuple(one["ids"]), tokens=greedy(source, one["ids"], 8)[0][:most], ended=False)
            for one, most in zip(request["prompts"], (8, length), strict=True)
        ]
        return Run(said=tuple(said), runtime={"name": "none"}, seconds=1.0, peak_bytes=1)

    monkeypatch.setattr("instruct.exporting.proof.run_export", program)
    proof = prove(source, Runner(script="hub", needs=(), path=tmp_path), check, tmp_path)
    (parting,) = proof.partings
    assert (proof.same_tokens, parting.id, parting.place) == (1, "r1", length)
    assert parting.export == source.tokenizer.spell(source.tokenizer.eos_id)


def test_a_program_is_given_the_context_that_its_longest_prompt_and_answer_need(tmp_path):
    source = small_source(tmp_path, "llama")
    config = replace(config_of("llama", source.tokenizer), max_position_embeddings=100_000)
    wide = replace(source, model=random_model(config, seed=1))
    request = request_of(wide, records(3), 50, 1)
    needed = max(len(one["ids"]) for one in request["prompts"]) + 50
    assert needed <= request["context"] < needed + 1000
    assert request_of(source, records(3), 250, 1)["context"] == source.model.block_size


def test_the_memory_is_that_of_the_program_not_of_the_process_that_started_it(tmp_path, monkeypatch):
    (tmp_path / "runners").mkdir()
    shutil.copy(Path(running.__file__).parent / "runners/run.py", tmp_path / "runners")
    program = """
def answer(asked):
    held = b"x" * asked["size"]
    return {"answers": [], "seconds": 1.0, "runtime": {}}
"""
    (tmp_path / "runners/hub.py").write_text(program)
    monkeypatch.setattr(running, "__file__", str(tmp_path / "running.py"))
    runner = Runner(script="hub", needs=(), path=tmp_path)
    small, large = (run_export(runner, {"size": size}).peak_bytes for size in (1, 10**8))
    assert 0 < small < psutil.Process().memory_info().rss / 2
    assert small + 0.9e8 < large < small + 1.5e8


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_stored_template_that_is_no_text_is_refused_by_its_file(tmp_path, name):
    folder = save_small(tmp_path / "small", "gpt2")
    (folder / name).write_bytes(b"\xff")
    with pytest.raises(DataError, match=name):
        open_source(ROOT, folder)


def test_checks_are_read_from_beside_the_test_set(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    rows = [{"id": one.id, "instruction": one.instruction, "input": one.input, "output": one.output} for one in
            records(3)]  # fmt: skip
    (tmp_path / "test.json").write_text(json.dumps(rows))
    assert read_check("all", tmp_path, Path("test.json")).checks == {}
    (tmp_path / "checks.json").write_text('{"r1": {"type": "accept", "accept": ["so"]}}')
    check = read_check("all", tmp_path, Path("test.json"))
    assert len(check.examples) == 3 and list(check.checks) == ["r1"]
    (tmp_path / "checks.json").write_text('{"r1": {"type": "acept"}}')
    with pytest.raises(DataError, match=r"checks\.json: r1"):
        read_check("2", tmp_path, Path("test.json"))
    assert not read_check("0", tmp_path, Path("test.json")).examples


def test_a_proof_counts_size_and_speed_and_every_file_by_its_digest(proved):
    folder, *_ = proved
    document = json.loads((folder / "right" / PROOF).read_text())
    assert document["cost_here"]["bytes"] == sum(one["bytes"] for one in document["files"].values())
    assert document["cost_here"]["tokens_per_second"] > 0
    assert {"README.md", "generation_config.json", "model.safetensors", "tokenizer_config.json"} <= set(
        document["files"]
    )


def test_an_export_is_read_as_a_run_or_refused(proved, tmp_path):
    folder, *_ = proved
    run = proof_run(folder / "right" / PROOF)
    assert run.scores["similarity"]
    assert [one.scores for one in read_runs(f"{folder / 'right'},{folder / 'right' / PROOF}")] == 2 * [run.scores]
    with pytest.raises(DataError, match="not an export"):
        proof_run(tmp_path)
    (tmp_path / PROOF).write_text("{}")
    with pytest.raises(DataError, match="skipped"):
        proof_run(tmp_path)


def test_the_card_says_what_is_known_and_the_upload_is_only_printed(proved, tmp_path):
    folder, *_ = proved
    card = (folder / "right/README.md").read_text()
    for words in ("6 of 6 test records", "## Limitations", "## How to run", "`<|im_end|>`", "alpaca"):
        assert words in card
    assert push_line("me/a b", tmp_path) == f"hf upload 'me/a b' {tmp_path} ."


@pytest.mark.parametrize(
    ("licence", "line"), [("Apache-2.0", "license: apache-2.0"), ("Llama-3.2", "license: llama3.2"), ("", "---")]
)
def test_the_card_names_the_licence_by_the_hubs_id(proved, licence, line):
    folder, source, check, _ = proved
    card = model_card(replace(source, origin=replace(source.origin, licence=licence)), "fp32", check, "n", folder)
    assert ("license:" in card) == bool(licence) and line in card.splitlines()


def card_rows(source, check, folder):
    """The rows of the card's table of scores, by the name of the score."""
    lines = model_card(source, "fp32", check, "n", folder).splitlines()
    return {row[0]: row[1:] for row in (line.strip("| ").split(" | ") for line in lines if line.startswith("|"))}


@pytest.mark.parametrize(
    ("checkpoint", "difference"),
    [
        ("models/sft/best", "+50.0"),
        ("models/dpo/best", "+20.0"),
        ("models/sft/last", None),
        ("models/dpo/last", None),
        ("elsewhere/sft/best", None),
    ],
)
def test_a_card_has_scores_only_if_they_are_of_this_checkpoint(checkpoint, difference, proved, monkeypatch):
    folder, source, check, _ = proved
    params = {"train": {"lr": 0.1}, "prefer": {"beta": 0.3}}
    source = replace(source, folder=folder / checkpoint, params=params, answered=difference is not None)
    means = {"base": 10.0, "sft": 60.0, "dpo": 30.0}
    run = make_run("workspace", {"llm": {name: [mean + i for i in range(8)] for name, mean in means.items()}})
    monkeypatch.setattr(hub, "read_run", lambda *_: run)
    rows, card = card_rows(source, check, folder), model_card(source, "fp32", check, "n", folder)
    assert bool(rows) == (difference is not None)
    if difference:
        assert rows["llm"][-1].startswith(difference)
    assert ("lr: 0.1" in card) == checkpoint.startswith("models/")
    assert ("beta: 0.3" in card) == checkpoint.startswith("models/dpo")


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_the_card_of_a_bfloat16_copy_says_whose_scores_it_has(kind, proved, monkeypatch):
    folder, source, check, _ = proved
    run = make_run("workspace", {"llm": {"base": [10.0] * 8, "sft": [60.0] * 8}})
    monkeypatch.setattr(hub, "read_run", lambda *_: run)
    source = replace(source, folder=folder / "models/sft/best", answered=True)
    scores = model_card(source, kind, check, "n", folder).split("## Scores")[1].split("## Data")[0]
    assert "| llm |" in scores and ("float32 checkpoint" in scores) == (kind == "bf16")
    assert "float32" not in model_card(replace(source, answered=False), kind, check, "n", folder).split("## Scores")[1]


def test_a_card_gives_a_verdict_on_the_primary_score_alone(proved, monkeypatch):
    folder, source, check, _ = proved
    low, high = [10.0 + i for i in range(8)], [60.0 + i for i in range(8)]
    run = make_run("workspace", {name: {"base": low, "sft": high} for name in ("llm", "other")})
    monkeypatch.setattr(hub, "read_run", lambda *_: run)
    rows = card_rows(replace(source, folder=folder / "models/sft/best", answered=True), check, folder)
    told = {name: row[-1].rpartition(": ")[2] for name, row in rows.items() if name in ("llm", "other")}
    assert sorted(told.values()) == ["better", "exploratory"]


@pytest.mark.parametrize(("system", "stale"), [("sft", ("params.yaml: train.lr",)), ("dpo", ())])
def test_a_card_has_no_scores_that_are_out_of_date_or_of_other_systems(system, stale, proved, monkeypatch):
    folder, source, check, _ = proved
    run = make_run("workspace", {"llm": {"base": [10.0] * 8, "sft": [60.0] * 8}})
    monkeypatch.setattr(hub, "read_run", lambda *_: replace(run, stale=stale))
    source = replace(source, folder=folder / "models" / system / "best", answered=True)
    assert not card_rows(source, check, folder)


def test_the_card_of_the_sft_model_has_its_own_difference_whatever_the_judges_know(proved, monkeypatch):
    """A judge of pairs compares the best baseline with the model that was tuned further, and knows no other."""
    folder, source, check, _ = proved
    low, high = [10.0 + i for i in range(8)], [60.0 + i for i in range(8)]
    run = make_run("workspace", {name: {"base": low, "sft": high, "dpo": low} for name in ("llm", "pairs")})
    llm, pairs = run.results.judges
    known = [one for one in pairs.systems if one.system != "sft"], [pairs.differences[-1]]
    pairs = replace(pairs, systems=tuple(known[0]), differences=tuple(known[1]))
    monkeypatch.setattr(hub, "read_run", lambda *_: replace(run, results=replace(run.results, judges=(llm, pairs))))
    rows = card_rows(replace(source, folder=folder / "models/sft/best", answered=True), check, folder)
    assert rows["llm"][1].startswith("63.5") and rows["llm"][3].startswith("+50.0")
    assert rows["pairs"][1] == "none" and not "".join(rows["pairs"][3:])


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_bfloat16_halves_the_weights_and_is_loaded_again(family, tmp_path):
    """An output head of its own, as the small Qwen3 has, keeps its name."""
    source, check = small_source(tmp_path, family), check_of(tmp_path, [])
    sizes = {}
    for kind in ("fp32", "bf16"):
        list(make_export(hub_export(source, kind, check, "n", tmp_path), source, check, tmp_path / kind))
        sizes[kind] = (tmp_path / kind / "model.safetensors").stat().st_size
    assert 0.45 < sizes["bf16"] / sizes["fp32"] < 0.55
    again, _ = load_checkpoint(tmp_path / "bf16", torch.device("cpu"))
    rounded = {name: weight.bfloat16().float() for name, weight in source.model.state_dict().items()}
    assert all(torch.equal(weight, rounded[name]) for name, weight in again.state_dict().items())
    assert open_source(ROOT, tmp_path / "bf16").template_name == "alpaca"


def test_a_hub_folder_has_no_padding_rows_that_transformers_could_choose(tmp_path):
    pytest.importorskip("transformers")
    source, check = padded_source(tmp_path, "qwen2"), check_of(tmp_path, records(2))
    lines = list(make_export(hub_export(source, "fp32", check, "n", tmp_path), source, check, tmp_path / "out"))
    assert any("2 of 2 the same token for token" in line for line in lines)
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == source.tokenizer.vocab_size
    given, _ = load_checkpoint(tmp_path / "qwen2", torch.device("cpu"))
    again, _ = load_checkpoint(tmp_path / "out", torch.device("cpu"))
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids), given(ids)[..., : source.tokenizer.vocab_size])


def test_a_bfloat16_folder_is_checked_in_the_arithmetic_of_its_card(tmp_path):
    transformers = pytest.importorskip("transformers")
    source, check = small_source(tmp_path, "llama"), check_of(tmp_path, records(6), most=40)
    lines = list(make_export(hub_export(source, "bf16", check, "n", tmp_path), source, check, tmp_path / "out"))

    def answers(dtype):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=dtype).eval()
        prompts = [encode_prompt(source.tokenizer, source.template.prompt(one.turns)) for one in check.examples]
        with torch.inference_mode():
            said = [model.generate(torch.tensor([ids]), max_new_tokens=40)[0, len(ids) :].tolist() for ids in prompts]
        texts = [source.tokenizer.decode([id_ for id_ in ids if id_ not in source.tokenizer.stop_ids]) for ids in said]
        return [text.strip() for text in texts]

    said = [one["response"] for one in json.loads((tmp_path / "out/answers/export.json").read_text())]
    assert said == answers(torch.bfloat16) != answers(torch.float32)
    assert json.loads((tmp_path / "out" / PROOF).read_text())["runtime"]["how"] == "bfloat16 arithmetic"
    assert any("(bfloat16 arithmetic)" in line for line in lines)
    assert 'from_pretrained(".", dtype="auto")' in (tmp_path / "out/README.md").read_text()


# Whole or not there


def test_what_fails_leaves_neither_a_part_nor_a_change(tmp_path):
    with whole_folder(tmp_path / "out", 0) as folder:
        (folder / PROOF).write_text("1")
    for error in (OSError(28, "No space left on device"), CheckpointError("broken")):
        with pytest.raises(InstructError, match=r"out.*No space left|broken"), whole_folder(tmp_path / "out", 0) as new:
            (new / PROOF).write_text("2")
            raise error
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (tmp_path / "out" / PROOF).read_text() == "1"
    with whole_folder(tmp_path / "out", 0) as folder:
        (folder / PROOF).write_text("3")
    assert (tmp_path / "out" / PROOF).read_text() == "3" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_an_export_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InstructError, match="not an export"), whole_folder(tmp_path, 0):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


def spoil(out, name):
    path = out / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("name", ["NOTES.md", ".git/HEAD", "answers/mine.json", "README.md", "tokenizer.json"])
def test_an_export_that_holds_work_of_the_user_is_not_replaced(name, when, tmp_path):
    source, check, out = small_source(tmp_path, "gpt2"), check_of(tmp_path, []), tmp_path / "out"
    export = hub_export(source, "fp32", check, "n", tmp_path)
    list(make_export(export, source, check, out))
    list(make_export(export, source, check, out))  # its own files are replaced
    if when == "before":
        spoil(out, name)

    def write(folder):
        spoil(out, name)
        return export.write(folder)

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InstructError, match=rf"out: has .*{name}.* --out"):
        list(make_export(replace(export, write=write), source, check, out))
    assert (out / name).read_text() == "mine"
    assert when == "meanwhile" or sorted(tmp_path.rglob("*")) == before
    assert not list(tmp_path.glob(".out*"))


def test_an_export_with_its_proof_is_replaced(proved):
    folder, source, check, _ = proved
    list(make_export(hub_export(source, "fp32", check, "small", folder), source, check, folder / "again"))
    list(make_export(hub_export(source, "bf16", check, "small", folder), source, replace(check, examples=[]),
                     folder / "again"))  # fmt: skip
    assert not (folder / "again/answers").exists()


def test_a_link_to_an_export_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("out")
    for name, text in (("out", "1"), ("link", "2")):
        with whole_folder(tmp_path / name, 0) as folder:
            (folder / PROOF).write_text(text)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "out" / PROOF).read_text() == "2"


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(InstructError, match=r"out: needs .* MB"), whole_folder(tmp_path / "out", 2**60):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["gguf", pytest.param("hf", marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_leaves_nothing(kind, tmp_path):
    save_small(tmp_path / "c", "gpt2")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))"
    program = f"{limit}; from instruct.cli import run; run()"
    command = [kind, "--checkpoint", "c", "--template", "alpaca", "--check", "0", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = warm.python("-c", program, "export", *command, cwd=tmp_path, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("instruct: out") and len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "params.yaml"]


def test_a_program_that_fails_is_quoted_and_nothing_is_left(tmp_path):
    source, check = small_source(tmp_path, "gpt2"), check_of(tmp_path, records(1))
    options = {"program": "onnx", "cache": None}
    export = Export(
        kind="x", settings={}, write=lambda folder: [], bytes_needed=0,
        runner=lambda folder: Runner(script="graph", needs=(), path=folder / "none.onnx", options=options),
    )  # fmt: skip
    with pytest.raises(InstructError, match=r"graph cannot run the export: .*none\.onnx"):
        list(make_export(export, source, check, tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


# Bad input


def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it():
    with pytest.raises(InstructError, match=r"no_such_runtime: .*pip install -e '\.\[export\]'"):
        require_packages(["json", "no_such_runtime"])


@pytest.mark.parametrize("asked", ["some", "-1", "1.5", ""])
def test_a_check_is_a_number_or_all(asked):
    with pytest.raises(ParamsError, match="--check"):
        read_check(asked, ROOT, ROOT / "none.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gguf", "--check", "0"], "no such checkpoint; run"),
        (["gguf", "--type", "q8"], "--type: q8 is not one of"),
        (["hf", "--type", "fp16", "--check", "0"], "--type: fp16"),
        (["onnx", "--checkpoint", "c"], "data/split/test.json: there is no such file"),
        (["onnx", "--checkpoint", "."], ".: has no *.safetensors; run"),
        (["torch", "--check", "0", "--checkpoint", "c"], "--template"),
        (["ollama", "--check", "0", "--checkpoint", "c", "--template", "x"], "--template: x"),
        (
            ["adapter", "--check", "0", "--checkpoint", "c", "--template", "phi3"],
            "c: is a whole model, not a LoRA adapter",
        ),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    save_small(tmp_path / "c", "gpt2")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["instruct", "export", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    error = capsys.readouterr().err
    assert stop.value.code == 1 and words in error and len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "params.yaml"]

"""`instruct judge` and `instruct human` as a user types them."""

import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from evaluation.answers import answer
from evaluation.ollama_server import OllamaServer
from ruamel.yaml import YAML

from instruct.core.files import read_csv, write_json
from instruct.evaluation.rubrics import find_rubric, prompt_hash

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    references = ["Paris", "Rome", "Bern"]
    for name in ("base_responses", "responses"):
        records = [answer(f"r{i}", f"{name} {i}", output=output) for i, output in enumerate(references)]
        write_json(tmp_path / f"data/{name}.json", [asdict(record) for record in records])
    return tmp_path


def instruct(folder, *arguments, text=""):
    return subprocess.run(
        [sys.executable, "-c", "from instruct.cli import run; run()", *arguments],
        cwd=folder, input=text, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "INSTRUCT_REPLIES": str(folder / "replies.sqlite")},
    )  # fmt: skip


def point_to(folder, server):
    params = YAML().load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["servers"]["ollama"]["url"] = server.url
    params["servers"]["calls"]["retries"] = 0
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)


def test_a_dry_run_shows_the_prompt_and_its_hash_and_reaches_no_server(folder):
    done = instruct(folder, "judge", "--dry-run", "--judge", "ollama", "--record", "r1")
    assert done.returncode == 0, done.stderr
    head, _, rest = done.stdout.partition("--- prompt ")
    assert find_rubric("score-0-100").sha256 in head
    assert "6 verdicts on answers, 15 on controls" in head
    prompts = [part.split("\n", 1) for part in rest.rsplit("\n--- schema", 1)[0].split("\n--- prompt ")]
    assert len(prompts) == 2
    assert all(prompt_hash(prompt) == digest for digest, prompt in prompts)
    assert "base_responses 1" in prompts[0][1] and "Rome" in prompts[0][1]


def test_a_dry_run_of_pairs_shows_both_orders(folder):
    done = instruct(folder, "judge", "--dry-run", "--judge", "openai", "--rubric", "pairwise")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--- prompt ") == 2
    assert (
        done.stdout.index("<<<RESPONSE A")
        < done.stdout.index("base_responses 0")
        < done.stdout.index("responses 0\nRESPONSE B")
    )


def test_check_names_model_and_digest_and_refuses_who_scores_all_alike(folder):
    with OllamaServer(content='{"score": 100}') as server:
        point_to(folder, server)
        done = instruct(folder, "judge", "--check", "--judge", "ollama")
    assert server.breaches == []
    assert done.returncode == 1
    assert "model llama3, digest " in done.stdout
    assert "100.0  an empty answer" in done.stdout
    assert "instruct: ollama is not fit: an empty answer gets 100.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_of_a_model_that_is_not_there_offers_the_command(folder):
    with OllamaServer() as server:
        point_to(folder, server)
        done = instruct(folder, "judge", "--check", "--judge", "ollama:mistral")
    assert done.returncode == 1
    assert "ollama pull mistral" in done.stderr


def test_the_reference_judge_is_checked_without_a_server(folder):
    done = instruct(folder, "judge", "--check")
    assert done.returncode == 0, done.stderr
    assert "reference: the controls came out in the expected order" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "needs --dry-run or --check"),
        (("--check", "--judge", "olama"), "olama is not a judge; did you mean ollama?"),
        (("--check", "--judge", "ollama", "--rubric", "score-1-6"), "did you mean score-1-5?"),
        (("--check", "--scoring", "guess"), "--scoring must be text or expected"),
        (("--dry-run", "--judge", "ollama", "--record", "r9"), "no answer to a record r9"),
    ],
)
def test_a_slip_is_one_line(folder, arguments, words):
    done = instruct(folder, "judge", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_human_scores_are_asked_for_and_filled_in(folder):
    done = instruct(folder, "human", "blank", "-n", "2")
    assert done.returncode == 0, done.stderr
    assert "4 answers to score, 0 scored" in done.stdout
    done = instruct(folder, "human", "fill", text="90\n\n20\n")
    assert done.returncode == 0, done.stderr
    assert "2 left" in done.stdout
    assert [row["score"] for row in read_csv(folder / "data/human-scores.csv")] == ["90", "", "20", ""]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--judge", "ollama", "--checkpoint", "nowhere"), "nowhere: holds no model.safetensors"),
        (("--checkpoint", "nowhere"), "open questions need a language model as judge"),
        (("--judge", "ollama", "missing.jsonl"), "missing.jsonl: there is no such file"),
    ],
)
def test_a_slip_in_questions_is_told_before_any_model_answers(folder, arguments, words):
    shutil.copy(ROOT / "data/questions.jsonl", folder / "data")
    done = instruct(folder, "questions", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1

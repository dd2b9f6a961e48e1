"""`instruct judge` and `instruct human` as a user types them."""

import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
from evaluation.answers import answer
from evaluation.ollama_server import DIGEST, OllamaServer
from ruamel.yaml import YAML

from instruct.cli import run
from instruct.core.files import read_csv, write_json
from instruct.core.records import as_row
from instruct.evaluation.rubrics import find_rubric, prompt_hash
from instruct.tools.question_file import read_questions
from instruct.tools.questions import known_answers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    references = ["Paris", "Rome", "Bern"]
    for name, file in (("base_responses", "baselines/base"), ("responses", "responses")):
        records = [answer(f"r{i}", f"{name} {i}", output=output) for i, output in enumerate(references)]
        write_json(tmp_path / f"data/{file}.json", [as_row(record) for record in records])
    return tmp_path


@pytest.fixture
def instruct(folder, monkeypatch):
    """The command line in this process, so that torch is imported once and not by every test."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("INSTRUCT_REPLIES", str(folder / "replies.sqlite"))

    def call(*arguments, text=""):
        out, err = (TextIOWrapper(BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        monkeypatch.setattr(sys, "argv", ["instruct", *arguments])
        monkeypatch.setattr(sys, "stdin", StringIO(text))
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = run() or 0
            except SystemExit as end:
                code = end.code or 0
        said = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return subprocess.CompletedProcess(arguments, code, *said)

    return call


def change(folder, section, **values):
    """Settings of a section, where a mapping changes what it names."""
    params = YAML().load((folder / "params.yaml").read_text(encoding="utf-8"))
    for name, value in values.items():
        if isinstance(value, dict):
            params[section][name] |= value
        else:
            params[section][name] = value
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)


def point_to(folder, server):
    change(folder, "servers", ollama={"url": server.url}, calls={"retries": 0})


def test_a_dry_run_shows_the_prompt_and_its_hash_and_reaches_no_server(folder, instruct):
    done = instruct("judge", "--dry-run", "--judge", "ollama", "--record", "r1")
    assert done.returncode == 0, done.stderr
    head, _, rest = done.stdout.partition("--- prompt ")
    assert find_rubric("score-0-100").sha256 in head
    assert "6 verdicts" in head and "15 on controls" in head
    prompts = [part.split("\n", 1) for part in rest.rsplit("\n--- schema", 1)[0].split("\n--- prompt ")]
    assert len(prompts) == 2
    assert all(prompt_hash(prompt) == digest for digest, prompt in prompts)
    assert "base_responses 1" in prompts[0][1] and "Rome" in prompts[0][1]


def test_a_dry_run_of_pairs_shows_both_orders(folder, instruct):
    done = instruct("judge", "--dry-run", "--judge", "openai", "--rubric", "pairwise")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--- prompt ") == 2
    assert (
        done.stdout.index("<<<RESPONSE A")
        < done.stdout.index("base_responses 0")
        < done.stdout.index("responses 0\nRESPONSE B")
    )


def test_check_names_model_and_digest_and_refuses_who_scores_all_alike(folder, instruct):
    with OllamaServer(content='{"score": 100}') as server:
        point_to(folder, server)
        done = instruct("judge", "--check", "--judge", "ollama")
    assert server.breaches == []
    assert done.returncode == 1
    assert "model llama3, " in done.stdout and ", digest " in done.stdout
    assert "100.0  an empty answer" in done.stdout
    assert "ollama is not fit: an empty answer gets 100.0" in done.stderr
    assert '{"score": 100}' in done.stderr  # as it came
    assert "Traceback" not in done.stderr


def test_check_of_a_model_that_is_not_there_offers_the_command(folder, instruct):
    with OllamaServer() as server:
        point_to(folder, server)
        done = instruct("judge", "--check", "--judge", "ollama:mistral")
    assert done.returncode == 1
    assert "ollama pull mistral" in done.stderr


OWN = [{"prompt": f"What is {n} + 1?", "completion": str(n + 1)} for n in range(9)]
FILES = {
    "own.jsonl": "".join(json.dumps(row) + "\n" for row in OWN),
    "own.csv": "question,answer\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in OWN),
    "own.json": json.dumps(
        [{"messages": [{"role": "user", "content": "Hi, who are you?"}, {"role": "assistant", "content": "Me."}]}]
    ),
}


@pytest.fixture
def without_answers(folder):
    shutil.rmtree(folder / "data")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_own_data_is_read_in_its_format_and_by_its_columns(without_answers, instruct, name):
    (without_answers / name).write_text(FILES[name])
    change(without_answers, "split", data=name)
    if name == "own.csv":
        change(without_answers, "split", columns={"instruction": "question", "output": "answer", "input": ""})
    for arguments in (("--dry-run", "--judge", "ollama"), ("--check",)):
        done = instruct("judge", *arguments)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("invalid, returncode", [("raise", 1), ("drop", 0)])
def test_bad_records_of_own_data_are_named_or_left_out_as_the_split_does(
    without_answers, instruct, invalid, returncode
):
    (without_answers / "own.jsonl").write_text(FILES["own.jsonl"] + '{"prompt": "", "completion": 5}\n')
    change(without_answers, "split", data="own.jsonl", invalid=invalid)
    done = instruct("judge", "--dry-run", "--judge", "ollama")
    assert done.returncode == returncode
    assert ("own.jsonl:10" in done.stderr) == (invalid == "raise") and "Traceback" not in done.stderr


def test_no_control_character_reaches_the_terminal(folder, instruct):
    with OllamaServer(content="\x1b[2J\x1b]0;title\x07 no", version="1\x1b[31m") as server:
        point_to(folder, server)
        for here in ("llama3:latest", "a\x1b[31m:latest"):
            server.model = here
            done = instruct("judge", "--check", "--judge", "ollama")
            assert done.returncode == 1
            assert not set(done.stdout + done.stderr) & {"\x1b", "\x07"}


def test_the_reference_judge_is_checked_without_a_server(folder, instruct):
    done = instruct("judge", "--check")
    assert done.returncode == 0, done.stderr
    assert "100.0  the reference answer itself" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--dry-run"),
        (("--dry-run", "--check"), "one of --dry-run and --check"),
        (("--check", "--judge", "olama"), "did you mean ollama?"),
        (("--check", "--judge", "ollama", "--rubric", "score-1-6"), "did you mean score-1-5?"),
        (("--check", "--scoring", "guess"), "--scoring"),
        (("--dry-run", "--judge", "ollama", "--record", "r9"), "r9"),
    ],
)
def test_a_slip_is_one_line(folder, instruct, arguments, words):
    done = instruct("judge", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_human_scores_are_asked_for_and_filled_in(folder, instruct):
    done = instruct("human", "blank", "-n", "2")
    assert done.returncode == 0, done.stderr
    done = instruct("human", "fill", text="90\n\n20\n")
    assert done.returncode == 0, done.stderr
    assert [row["score"] for row in read_csv(folder / "data/human-scores.csv")] == ["90", "", "20", ""]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--judge", "ollama", "--checkpoint", "nowhere"), "nowhere"),
        (("--checkpoint", "nowhere"), "evaluate.judges"),
        (("--judge", "ollama", "missing.jsonl"), "missing.jsonl"),
    ],
)
def test_a_slip_in_questions_is_told_before_any_model_answers(folder, instruct, arguments, words):
    shutil.copy(ROOT / "data/questions.jsonl", folder / "data")
    done = instruct("questions", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [("human", "blank"), ("judge", "--dry-run", "--judge", "ollama")])
def test_answers_to_different_records_are_refused_in_one_line(folder, instruct, command):
    write_json(folder / "data/responses.json", [as_row(answer("r0", "only one", output="Paris"))])
    done = instruct(*command)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "sft" in done.stderr and not (folder / "data/human-scores.csv").exists()


@pytest.fixture
def questions(folder, instruct, monkeypatch):
    """`instruct questions` with models that say "yes"; gives its end and the checkpoints of those that were opened."""
    shutil.copy(ROOT / "data/questions.jsonl", folder / "data")
    for name in ("some", "models"):
        (folder / name).mkdir()
    shutil.copy(ROOT / "models/backbones.yaml", folder / "models")
    (folder / "some/adapter_model.safetensors").write_bytes(b"")
    opened = []

    def open_system(checkpoint, max_new_tokens):
        opened.append(checkpoint)
        return lambda examples: [one.answered("yes") for one in examples]

    monkeypatch.setattr("instruct.tools.questions.open_system", open_system)
    return lambda *more: (instruct("questions", "--checkpoint", "some", *more), opened)


def test_the_judge_of_questions_is_asked_before_any_model_answers(folder, questions):
    """A server that nobody started, a model that it lacks, a context without room, a judge that is not fit."""
    with OllamaServer(content='{"score": 10}') as server:
        point_to(folder, server)
        cases = [("not fit", ()), ("mistral", ("--judge", "ollama:mistral")), ("context", ("--max-new-tokens", "5000"))]
        for words, more in cases:
            done, opened = questions("--judge", "ollama", *more)
            assert (done.returncode, done.stdout, opened) == (1, "", []) and words in done.stderr
    change(folder, "servers", calls={"backoff": 0.01})
    done, opened = questions("--judge", "ollama")
    assert (done.returncode, done.stdout, opened) == (1, "", []) and server.url in done.stderr.splitlines()[0]


def test_every_turn_of_both_models_is_judged_once_the_judge_has_answered(folder, questions):
    change(folder, "evaluate", allow_unfit=True)
    with OllamaServer(content='{"score": 10}') as server:
        point_to(folder, server)
        done, opened = questions("--judge", "ollama", "--out", "out.json")
    assert (done.returncode, opened) == (0, [None, Path("some")]), done.stderr
    assert done.stdout.splitlines()[-1].split() == ["ollama", "all", "sft", "100.0", "16", "of", "16"]
    assert len(json.loads((folder / "out.json").read_text())["judgements"]) == 32


def test_questions_whose_replies_are_all_known_need_no_server_and_no_model(folder, questions):
    change(folder, "evaluate", allow_unfit=True)
    ask = partial(questions, "--judge", "ollama")
    with OllamaServer(content='{"score": 10}') as server:
        point_to(folder, server)
        change(folder, "servers", ollama={"digest": DIGEST}, calls={"backoff": 0.01})
        first, opened = ask()
        assert (first.returncode, len(opened)) == (0, 2), first.stderr
        references = known_answers(read_questions(folder / "data/questions.jsonl"))
        asked = [body["messages"][0]["content"] for body in server.verdicts]
        assert all(any(one.output in text for text in asked) for one in references), "each is a known answer"
        opened.clear()
    again, opened = ask()
    assert (again.returncode, again.stdout, opened) == (0, first.stdout, []), again.stderr
    # The same questions to another model: whether their replies are known shows when it has answered them.
    (folder / "some/adapter_model.safetensors").write_bytes(b"trained again")
    other, opened = ask()
    assert (other.returncode, other.stdout, opened) == (1, "", []) and server.url in other.stderr.splitlines()[0]


def test_damaged_kept_answers_are_given_again(folder, questions):
    change(folder, "evaluate", allow_unfit=True)
    with OllamaServer(content='{"score": 10}') as server:
        point_to(folder, server)
        first, opened = questions("--judge", "ollama")
        (kept,) = (folder / "build/questions").iterdir()
        whole = kept.read_bytes()
        for damaged in (whole[:-20], b"[]", b'{"base": {}}', b"{}"):
            opened.clear()
            kept.write_bytes(damaged)
            done, opened = questions("--judge", "ollama")
            assert (done.stdout, len(opened), kept.read_bytes()) == (first.stdout, 2, whole), done.stderr


def test_controls_of_questions_are_the_turns_with_a_reference(folder):
    known = known_answers(read_questions(ROOT / "data/questions.jsonl"))
    rows = [json.loads(line) for line in (ROOT / "data/questions.jsonl").read_text().splitlines()]
    assert [one.output for one in known] == [text for row in rows for text in row.get("reference", []) if text]
    assert all(one.response == one.output and (one.history == ()) == one.id.endswith("-1") for one in known)

"""src/generate.py as a process: shared by two, killed, and gone on with."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import warm

from instruct.backbones.catalog import find_backbone
from instruct.core.fingerprint import take_fingerprint
from instruct.generation.journal import Journal
from instruct.generation.rows import Answer
from instruct.model.checkpoint import save_checkpoint
from instruct.model.pretrained import load_backbone
from instruct.tools.smoke import copy_tree, make_small

ANSWER = Answer(text="yes", stop_reason="length", prompt_tokens=3, truncated_tokens=0, tokens=2)
ROOT = Path(__file__).parents[2]
PATHS = ["data/split/test.json", "models/sft/best", "data/responses.json"]
ALONE = [sys.executable, "src/generate.py", *PATHS]
TWO = ["torchrun", "--standalone", "--nproc-per-node", "2", "src/generate.py", *PATHS]


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A small copy of the repository, split, with a tiny random model in the place of a trained one."""
    folder = tmp_path_factory.mktemp("generate-stage") / "repository"
    copy_tree(ROOT, folder)
    make_small(ROOT, folder)
    warm.python("src/split.py", "data/split", "metrics/split.json", cwd=folder).check_returncode()
    tiny = find_backbone("gpt2-tiny-random", ROOT / "models" / "backbones.yaml")
    save_checkpoint(*load_backbone(tiny, torch.device("cpu")), folder / "models/sft/best")
    return folder


@pytest.fixture
def copy(repository, tmp_path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "copy"))


def answer(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if command[0] == sys.executable:
        ended = warm.python(*command[1:], cwd=folder, env=environment)
    else:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def unbroken(repository, tmp_path_factory) -> bytes:
    folder = Path(shutil.copytree(repository, tmp_path_factory.mktemp("unbroken") / "copy"))
    answer(folder, ALONE)
    left = [path.name for path in (folder / "data").iterdir() if "partial" in path.name]
    assert left == []
    return (folder / "data/responses.json").read_bytes()


def journals(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob(".responses.json.*.partial"))


def test_two_processes_leave_the_same_file_as_one(copy, unbroken):
    """Without torchrun, whose start takes seconds; that it starts them is tested in training and, slow, below."""
    for ended in warm.ranks(2, *ALONE[1:], cwd=copy):
        assert ended.returncode == 0, ended.stderr
    assert (copy / "data/responses.json").read_bytes() == unbroken
    assert journals(copy) == []


@pytest.mark.slow
def test_a_prompt_too_long_is_named_whichever_process_would_have_answered_it(copy):
    test = copy / "data/split/test.json"
    records = json.loads(test.read_text(encoding="utf-8"))
    records[1]["instruction"] = "tree " * 3000  # the second of two processes has it
    test.write_text(json.dumps(records), encoding="utf-8")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(TWO, cwd=copy, capture_output=True, text=True, env=environment)
    assert ended.returncode != 0
    assert re.search(rf"generate\.py: record {records[1]['id']}: its prompt has \d+ tokens", ended.stderr)


def one_at_a_time(folder: Path) -> str:
    """Give each answer a turn of its own, so that a run has a middle; gives the settings before."""
    before = (folder / "params.yaml").read_text()
    after, count = re.subn(r"(?m)^( +)batch_size: \d+", r"\g<1>batch_size: 1", before)
    assert count == 1
    (folder / "params.yaml").write_text(after)
    return before


def kill_in_the_middle(folder: Path) -> int:
    """Kill -9 as soon as an answer is noted; gives how many were."""
    with subprocess.Popen(ALONE, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            noted = sum(len(path.read_text().splitlines()) - 1 for path in journals(folder))
            if noted > 0:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.004)
    return sum(path.read_bytes().count(b"\n") - 1 for path in journals(folder))


@pytest.fixture(scope="module")
def killed(repository, tmp_path_factory) -> tuple[Path, str, int]:
    """A copy whose run was killed, the settings before it was made slow, and how many answers are known."""
    folder = Path(shutil.copytree(repository, tmp_path_factory.mktemp("killed") / "copy"))
    params = one_at_a_time(folder)
    return folder, params, kill_in_the_middle(folder)


def test_killed_run_goes_on_from_what_is_answered_and_leaves_the_same_file(killed, unbroken, tmp_path):
    folder, _, known = killed
    count, copy = len(json.loads(unbroken)), Path(shutil.copytree(folder, tmp_path / "copy"))
    assert 0 < known < count, "the run ended before it was killed"
    ended = answer(copy, ALONE)
    assert f"going on: {known} of {count} answers are known" in ended.stdout
    assert (copy / "data/responses.json").read_bytes() == unbroken
    assert journals(copy) == []


def test_answers_of_another_run_are_refused_in_words(killed, unbroken, tmp_path):
    folder, params, known = killed
    assert known
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "params.yaml").write_text(params)
    ended = answer(copy, ALONE)
    assert "is of another run (params generate differ); answering from the beginning" in ended.stdout
    assert (copy / "data/responses.json").read_bytes() == unbroken


# The journal


def known_to(folder, name, fingerprint, lines):
    path = folder / name
    journal = Journal(path, fingerprint)
    journal.begin({f"r{i}": ANSWER for i in range(lines)})
    return journal


@pytest.fixture
def fingerprint(tmp_path):
    (tmp_path / "data").write_text("some", encoding="utf-8")
    return take_fingerprint({"generate": {"seed": 1}}, [tmp_path / "data"])


@pytest.mark.parametrize("damage", ['{"id": "r1", "ans', "\0\0\0", '{"id": "r1"}', "[]", '{"id": "r1", "answer": {}}'])
def test_a_damaged_line_costs_what_stands_below_it_and_is_said(tmp_path, fingerprint, damage):
    journal = known_to(tmp_path, ".out.json.0-of-1.partial", fingerprint, 4)
    lines = journal.path.read_text(encoding="utf-8").split("\n")
    journal.path.write_text("\n".join([*lines[:2], damage, *lines[3:]]), encoding="utf-8")
    assert list(journal.read()) == ["r0"]
    assert journal.refusal == f"{journal.path}:3 is damaged; answering again from this line on"


@pytest.mark.parametrize("first", ["[]", '{"fingerprint": []}', "{}", "nonsense"])
def test_a_damaged_first_line_is_said(tmp_path, fingerprint, first):
    journal = known_to(tmp_path, ".out.json.0-of-1.partial", fingerprint, 2)
    rest = journal.path.read_text(encoding="utf-8").split("\n", 1)[1]
    journal.path.write_text(f"{first}\n{rest}", encoding="utf-8")
    assert journal.read() == {}
    assert journal.refusal == f"{journal.path} is damaged; answering from the beginning"


def test_answers_of_another_number_of_processes_are_known_and_their_files_forgotten(tmp_path, fingerprint):
    known_to(tmp_path, ".out.json.0-of-2.partial", fingerprint, 1)
    known_to(tmp_path, ".out.json.1-of-2.partial", fingerprint, 3)
    known_to(tmp_path, ".other.json.0-of-1.partial", fingerprint, 9)
    journal = Journal(tmp_path / ".out.json.0-of-1.partial", fingerprint)
    assert (sorted(journal.read()), journal.refusal) == (["r0", "r1", "r2"], "")
    journal.forget()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.json.0-of-1.partial", "data"]

"""src/baseline.py as a process: what it leaves, and what a kill or a second process changes in it."""

import json
import os
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
from instruct.core.records import read_examples, read_responses
from instruct.model.checkpoint import save_checkpoint
from instruct.model.pretrained import load_backbone
from instruct.tools.smoke import copy_tree, make_small

ROOT = Path(__file__).parents[2]
PATHS = ["data/split/train.json", "data/split/test.json", "data/baselines"]
ALONE = [sys.executable, "src/baseline.py", *PATHS]
TWO = ["torchrun", "--standalone", "--nproc-per-node", "2", "src/baseline.py", *PATHS]
TEST = "data/split/test.json"


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A small copy of the repository, split, with a tiny random backbone that has no chat template."""
    folder = tmp_path_factory.mktemp("baseline-stage") / "repository"
    copy_tree(ROOT, folder)
    make_small(ROOT, folder)
    warm.python("src/split.py", "data/split", "metrics/split.json", cwd=folder).check_returncode()
    return folder


@pytest.fixture
def copy(repository, tmp_path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "copy"))


def run(folder: Path, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **variables}
    if command[0] == sys.executable:
        return warm.python(*command[1:], cwd=folder, env=env)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)


def set_params(folder: Path, old: str, new: str) -> None:
    text = (folder / "params.yaml").read_text()
    assert text.count(old) == 1
    (folder / "params.yaml").write_text(text.replace(old, new))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data/baselines").iterdir())}


def journals(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob(".baselines.*.partial"))


@pytest.fixture(scope="module")
def unbroken(repository, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(repository, tmp_path_factory.mktemp("unbroken") / "copy"))
    (folder / "data/baselines").mkdir()
    (folder / "data/baselines/base-chat.json").write_text("of another backbone")
    ended = run(folder, ALONE)
    assert ended.returncode == 0, ended.stderr
    assert "chat is left out" in ended.stdout
    return folder


def test_every_system_answers_every_test_record_in_order(unbroken):
    assert set(content(unbroken)) == {"base.json", "base-few-shot.json", "echo.json", "nearest.json"}
    examples = read_examples(unbroken / TEST)
    for name in content(unbroken):
        answers = read_responses(unbroken / "data/baselines" / name)
        assert [(one.id, one.instruction, one.output) for one in answers] == [
            (one.id, one.instruction, one.output) for one in examples
        ]
    assert journals(unbroken) == []


def test_base_is_what_generate_answers_with_the_same_weights(unbroken):
    tiny = find_backbone("gpt2-tiny-random", ROOT / "models" / "backbones.yaml")
    save_checkpoint(*load_backbone(tiny, torch.device("cpu")), unbroken / "models/sft/best")
    ended = run(unbroken, [sys.executable, "src/generate.py", TEST, "models/sft/best", "data/responses.json"])
    assert ended.returncode == 0, ended.stderr
    assert (unbroken / "data/responses.json").read_bytes() == content(unbroken)["base.json"]


@pytest.mark.slow
def test_two_processes_leave_the_same_files_as_one(copy, unbroken):
    ended = run(copy, TWO)
    assert ended.returncode == 0, ended.stderr
    assert (content(copy), journals(copy)) == (content(unbroken), [])


def test_a_killed_run_goes_on_with_what_is_answered_though_dvc_empties_the_folder(copy, unbroken):
    set_params(copy, "  batch_size: 128", "  batch_size: 1")
    with subprocess.Popen(ALONE, cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            # In the middle of the last system that needs the model.
            if any("few-shot" in path.name and path.read_text().count("\n") > 1 for path in journals(copy)):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.004)
    known = {path.name.split(".")[2]: path.read_text().count("\n") - 1 for path in journals(copy)}
    count = len(json.loads((copy / TEST).read_text()))
    assert known["base"] == count > known["base-few-shot"] > 0, "the run ended before it was killed"
    shutil.rmtree(copy / "data/baselines", ignore_errors=True)
    ended = run(copy, ALONE)
    assert f"going on: {known['base-few-shot']} of {count} answers are known" in ended.stdout
    assert f"going on: {count} of {count} answers are known" in ended.stdout
    assert (content(copy), journals(copy)) == (content(unbroken), [])


def test_systems_without_a_model_need_no_weights(copy, tmp_path):
    set_params(copy, "backbone: gpt2-tiny-random", "backbone: smollm2-135m")
    set_params(copy, "  - template\n  - chat\n  - few-shot\n", "")
    nothing = {"INSTRUCT_CACHE": str(tmp_path / "none"), "PIP_NO_INDEX": "1"}
    ended = run(copy, ALONE, **nothing)
    assert (ended.returncode, set(content(copy))) == (0, {"echo.json", "nearest.json"}), ended.stderr
    assert not (tmp_path / "none").exists()


def test_where_nothing_is_left_of_the_systems_one_line_says_so(copy):
    set_params(copy, "  - template\n  - chat\n  - few-shot\n  - echo\n  - nearest\n", "  - chat\n")
    ended = run(copy, ALONE)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("baseline.py: params.yaml: baseline.systems: ")
    assert not (copy / "data/baselines").exists()

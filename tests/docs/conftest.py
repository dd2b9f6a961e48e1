"""The places where the console blocks of README.md and docs/ run."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from console_blocks import Session
from small_pipeline import commit_all, copy_tracked, git, run

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".dvc" / "cache"


@pytest.fixture(scope="session")
def clone(tmp_path_factory, hermetic):
    """What Git tracks or would track, committed, with the data divided; copy it, leave it as it is."""
    folder = tmp_path_factory.mktemp("docs") / "instruct"
    copy_tracked(ROOT, folder)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit_all(folder)
    done = run("python", "src/split.py", "data/split", "metrics/split.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    # Without methods, `augment` copies both parts.
    shutil.copytree(folder / "data/split", folder / "data/augmented", ignore=shutil.ignore_patterns("test.json", "c*"))
    return folder


@pytest.fixture(scope="session")
def results(clone, tmp_path_factory):
    """The clone with the outputs of the committed run, where this checkout has them; copy it, leave it as it is."""
    folder = tmp_path_factory.mktemp("docs-results") / "instruct"
    shutil.copytree(clone, folder, symlinks=True)
    assert run("dvc", "cache", "dir", "--local", str(CACHE), cwd=folder).returncode == 0
    wanted = [
        "data/responses.json",
        "data/judgements.json",
        "data/baselines",
        "models/sft",
        "metrics/report/index.html",
    ]
    if run("dvc", "checkout", "--quiet", "--force", *wanted, cwd=folder).returncode:
        pytest.skip("the committed run's outputs are not here: dvc pull, or dvc repro")
    return folder


@pytest.fixture
def places(request, tmp_path):
    """A session in a place, made when a block first asks for it.

    `clone` is this repository as committed, with its data divided. `small` is a finished run of a tiny random model, in
    which every command is quick, with a reader's own data file. Each page has its own copy of these. `results` is the
    clone with the answers and the checkpoint of the committed run; all pages share it, so its blocks only read.
    """
    sessions: dict[str, Session] = {}

    def place(name: str) -> Session:
        if name not in sessions:
            source = request.getfixturevalue({"small": "finished"}.get(name, name))
            copied = source if name == "results" else tmp_path / name / "instruct"
            if name != "results":
                shutil.copytree(source, copied, symlinks=True)
            if name == "small":
                look_installed(copied)
                write_own_data(copied)
            sessions[name] = Session(copied)
        return sessions[name]

    yield place
    for session in sessions.values():
        session.__exit__()


def look_installed(folder):
    """An environment for `make` and `activate` without a download: this Python's programs are first on the path."""
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("bin/activate", ".runtime", ".dev"):
        (folder / ".venv" / name).touch()


def write_own_data(folder):
    """What a reader has: a table of questions and answers, here every 25th record of the data set."""
    records = json.loads((folder / "data/instructions.json").read_text("utf-8"))[::25]
    with (folder / "data/mine.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["instruction", "input", "output"], extrasaction="ignore")
        table.writeheader()
        table.writerows(records)

"""The steps of the workflows, run here as GitHub would run them, on two real branches and in a shallow clone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from comparing.small_runs import make_repository, write_run
from ruamel.yaml import YAML
from small_pipeline import commit_all, git, run

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.stem: YAML(typ="safe").load(path) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
STEPS = WORKFLOWS["pull-request"]["jobs"]["evidence"]["steps"]
NAMED = {step["name"]: step for step in STEPS if "name" in step}
# What the workflow asks of GitHub, as it stands for a branch of the repository itself.
EXPRESSIONS = {
    "github.event.pull_request.base.ref": "main",
    "github.event.pull_request.number": "7",
    "github.event.pull_request.head.sha": "",
    "github.token": "a token",
    "!cancelled()": "true",
    "!cancelled() && github.event.pull_request.head.repo.full_name == github.repository": "true",
}
# Writes down what it was asked to do, in place of GitHub's command line.
GH = r"""#!/bin/sh
printf "%s\n" "$@" > "$GH_LOG"
while [ "$1" != --body-file ]; do shift; done
cat "$2" > "$GH_LOG.body"
"""


def fill(text):
    """A value of the workflow with its expressions evaluated; one that this test does not know is an error."""
    return re.sub(r"\$\{\{ *(.+?) *\}\}", lambda found: EXPRESSIONS[found[1]], str(text))


def strings_of(value):
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)
    elif isinstance(value, str):
        yield value


# What must hold for every workflow


def test_what_runs_is_read_only_but_for_the_comment():
    rights = {name: workflow["permissions"] for name, workflow in WORKFLOWS.items()}
    assert rights == {
        "main": {"contents": "read"},
        "pull-request": {"contents": "read", "pull-requests": "write"},
    }
    # pull_request_target would run a stranger's code with a token that may write.
    assert [workflow["on"] for workflow in WORKFLOWS.values()] == [{"push": {"branches": ["main"]}}, "pull_request"]


def test_actions_are_pinned_by_commit_and_leave_no_token_behind():
    """A tag can be moved to other code; a token that checkout leaves in .git is there for every later step."""
    steps = [step for workflow in WORKFLOWS.values() for job in workflow["jobs"].values() for step in job["steps"]]
    actions = [step["uses"] for step in steps if "uses" in step]
    assert actions and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions)
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(WORKFLOWS)
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_nothing_a_stranger_writes_becomes_shell():
    for workflow in WORKFLOWS.values():
        for job in workflow["jobs"].values():
            assert [step["run"] for step in job["steps"] if "${{" in step.get("run", "")] == []


def test_every_expression_is_one_that_these_tests_evaluate():
    for text in strings_of(WORKFLOWS["pull-request"]):
        fill(text)


def test_a_failing_step_does_not_hide_the_ones_after_it():
    names = list(NAMED)
    for name in names[names.index("report") :]:
        assert NAMED[name]["if"].startswith("${{ !cancelled()"), name


def test_pull_request_runs_everything_that_main_must_pass():
    promised = re.findall(r"^make (\S+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    runs = {step["run"] for step in STEPS if "run" in step}
    assert {f"make {target}" for target in promised} <= runs
    assert len(promised) >= 3


# The steps themselves


@pytest.fixture
def branches(workplace, tmp_path):
    """A bare repository with main and a branch `faster` that trains at another rate, results committed on both."""
    git(workplace, "switch", "--quiet", "--create", "faster")
    done = run("dvc", "exp", "run", "-S", "train.lr=0.005", cwd=workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    commit_all(workplace)
    git(workplace, "switch", "--quiet", "main")
    return publish(workplace, tmp_path / "origin.git")


def publish(folder, bare):
    git(folder.parent, "clone", "--quiet", "--bare", str(folder), str(bare))
    return bare


class Runner:
    """One machine of GitHub's: a shallow clone of a branch, an environment that `make install` finds finished."""

    def __init__(self, bare, branch, folder, src=None):
        self.clone, self.log, self.summary = folder / "clone", folder / "gh.log", folder / "summary.md"
        self.src = src or self.clone / "src"
        self.summary.touch()
        # What actions/checkout does: one commit, and no branch but this one.
        git(folder, "clone", "--quiet", "--depth", "1", "--branch", branch, f"file://{bare}", str(self.clone))
        venv = self.clone / ".venv"
        venv.mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (venv / name).symlink_to(Path(sys.prefix) / name)
        for name in (".runtime", ".dev"):
            (venv / name).touch()
        programs = folder / "programs"
        programs.mkdir()
        (programs / "gh").write_text(GH)
        (programs / "gh").chmod(0o755)
        self.path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def __call__(self, name, **environment):
        step = NAMED[name]
        declared = {**WORKFLOWS["pull-request"]["env"], **step.get("env", {})}
        kept = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        return subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=self.clone,
            env={
                **kept,
                **{key: fill(value) for key, value in declared.items()},
                # The installed `instruct` is that of the project under test; GitHub would install the clone's.
                "PYTHONPATH": str(self.src),
                "PATH": self.path,
                "GITHUB_STEP_SUMMARY": str(self.summary),
                "GH_LOG": str(self.log),
                **environment,
            },
            capture_output=True,
            text=True,
        )


def test_lock_step_passes_without_data_where_results_belong_to_the_code(finished, tmp_path):
    runner = Runner(publish(finished, tmp_path / "origin.git"), "main", tmp_path)
    assert not (runner.clone / "models/sft").exists()
    assert not (runner.clone / ".dvc/cache").exists()
    done = runner("lock")
    assert done.returncode == 0, done.stdout + done.stderr


def test_lock_step_fails_where_results_are_older_than_the_branch(workplace, tmp_path):
    params = workplace / "params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("weight_decay: 0.1", "weight_decay: 0.2", 1), encoding="utf-8")
    commit_all(workplace)
    done = Runner(publish(workplace, tmp_path / "origin.git"), "main", tmp_path)("lock")
    assert done.returncode == 2
    assert "instruct: dvc.lock: is not that of this commit: code, settings or data of train are newer" in done.stderr


@pytest.fixture(scope="module")
def scored(tmp_path_factory, hermetic):
    """A bare repository with hand-written runs on main, on a branch that is worse, and on one that is like main."""
    folder = tmp_path_factory.mktemp("scored")
    source = make_repository(folder / "source", with_dvc=True)
    scores = [50.0 + i for i in range(40)]
    write_run(source, {"similarity": scores})
    commit_all(source)
    for place, (branch, change) in enumerate({"worse": -40, "alike": 0}.items(), 1):
        git(source, "switch", "--quiet", "--create", branch, "main")
        write_run(source, {"similarity": [score + change for score in scores]}, md5s={"sft": str(place)})
        git(source, "commit", "--quiet", "--all", "--message", branch)
    return publish(source, folder / "origin.git")


@pytest.mark.parametrize(
    ("gate", "branch", "status", "said"),
    [
        ("", "worse", 0, "is lower in"),
        ("worse-by 2", "worse", 3, "is lower in"),
        ("not-better", "alike", 1, "is not distinguishable from"),
        ("wrose", "alike", 1, "--fail-if must be worse, not-better, or worse-by"),
    ],
)
def test_gate_decides_how_the_report_step_ends(scored, tmp_path, gate, branch, status, said):
    """The step's own exit status is what GitHub turns red by.

    A verdict on recipes takes two seeds of each, so that one run a side gets none: neither passes nor fails.
    """
    runner = Runner(scored, branch, tmp_path, src=ROOT / "src")
    assert runner("base").returncode == 0
    done = runner("report", FAIL_IF=gate)
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert said in (runner.clone / "report/report.md").read_text(encoding="utf-8")


def test_no_gate_is_set_and_a_comment_says_how_to_set_one():
    text = (ROOT / ".github/workflows/pull-request.yml").read_text(encoding="utf-8")
    assert WORKFLOWS["pull-request"]["env"]["FAIL_IF"] == ""
    comment = text[: text.index("  FAIL_IF: ")].rpartition("jobs:")[2]
    assert all(gate in comment for gate in ("worse", "not-better", "worse-by"))


@pytest.mark.slow
def test_every_step_runs_on_two_real_branches(branches, tmp_path):
    runner = Runner(branches, "faster", tmp_path)
    assert "origin/main" not in git(runner.clone, "branch", "--all")
    # One file of tests stands for all of them, or this test would run itself.
    for name in [step["name"] for step in STEPS if "run" in step]:
        done = runner(name, **({"ARGS": "tests/core/test_files.py"} if name == "tests" else {}))
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
    report = (runner.clone / "report/report.md").read_text(encoding="utf-8")
    assert "train.lr" in report
    assert report in runner.summary.read_text(encoding="utf-8")
    assert runner.log.read_text().split() == ["pr", "comment", "7", *runner.log.read_text().split()[3:]]
    assert (tmp_path / "gh.log.body").read_text(encoding="utf-8") == report
    assert not git(runner.clone, "status", "--porcelain", "--", "dvc.lock", "metrics", "data")


def test_this_machine_can_stand_in_for_githubs(finished, tmp_path):
    runner = Runner(publish(finished, tmp_path / "origin.git"), "main", tmp_path)
    assert runner("base").returncode == 0
    assert git(runner.clone, "rev-parse", "origin/main") == git(runner.clone, "rev-parse", "HEAD")
    assert runner("install").stdout.strip().endswith("'install'.")
    assert shutil.which("python", path=str(runner.clone / ".venv/bin"))

import json
import math
import os
from dataclasses import replace
from hashlib import md5

import pytest
from comparing.small_runs import commit, git, make_repository, write_lock, write_run
from results.sample import make_run

from instruct.core.errors import DataError, InstructError, ParamsError
from instruct.results.revisions import find_commit
from instruct.results.runs import all_leak_lines, changed_params, read_run
from instruct.tools.programs import run_git

FORTY = [float(i) for i in range(40)]


@pytest.fixture
def repository(tmp_path):
    root = make_repository(tmp_path / "repository")
    write_run(root, {"similarity": FORTY})
    commit(root)
    return root


def test_a_revision_and_the_workspace_are_read_alike(repository):
    committed = read_run("main", repository)
    assert read_run("workspace", repository).scores == committed.scores
    assert committed.scores["similarity"] == {f"r{i}": float(i) for i in range(40)}
    write_run(repository, {"similarity": [*FORTY[:-1], 99.5]}, params={"train.lr": 1.0})
    assert read_run("main", repository) == committed
    workspace = read_run("workspace", repository)
    assert workspace.scores["similarity"]["r39"] == 99.5
    assert changed_params(committed, workspace) == {"train.lr": ("0.0002", "1.0")}
    assert (committed.commit, workspace.commit) == (git(repository, "rev-parse", "main"), "")


def test_a_setting_that_one_run_lacks_is_absent_there(repository):
    (repository / "params.yaml").write_text("train: {seed: 123, lr: 0.0002, new: null}\nprompt: {template: alpaca}\n")
    changes = changed_params(read_run("main", repository), read_run("workspace", repository))
    assert changes == {"train.new": ("absent", "None"), "evaluate.seed": ("123", "absent")}


def test_an_experiment_is_found_by_its_name(repository):
    baseline = git(repository, "rev-parse", "HEAD")
    write_run(repository, {"similarity": FORTY[::-1]})
    experiment = commit(repository)
    git(repository, "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/tame-elk", experiment)
    git(repository, "update-ref", "refs/exps/exec/EXEC_HEAD", baseline)
    git(repository, "reset", "-q", "--hard", baseline)
    assert find_commit("tame-elk", repository) == experiment
    assert read_run("tame-elk", repository).scores["similarity"]["r0"] == 39
    # The same name on top of another commit is another experiment.
    git(repository, "update-ref", f"refs/exps/{experiment[:2]}/{experiment[2:]}/tame-elk", baseline)
    assert find_commit("tame-elk", repository) == experiment
    commit(repository, "neither's baseline")
    with pytest.raises(ParamsError, match=r'^"tame-elk" names 2 experiments'):
        find_commit("tame-elk", repository)
    # A branch of that name comes first.
    git(repository, "branch", "tame-elk", "main")
    assert find_commit("tame-elk", repository) == git(repository, "rev-parse", "main")


@pytest.mark.parametrize("name", ["mian", "HEAD~7", "--all", "a b", "", "main:params.yaml", "^main"])
def test_a_name_that_means_nothing_is_refused(repository, name):
    with pytest.raises(ParamsError, match=r"^there is no revision or experiment .*; see `git branch -a`"):
        read_run(name, repository)


def test_a_shallow_clone_reads_the_base_branch_once_it_is_fetched_and_says_how(repository, tmp_path):
    git(repository, "checkout", "-q", "-b", "work")
    write_run(repository, {"similarity": FORTY[::-1]})
    commit(repository)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", "--branch", "work", f"file://{repository}", str(clone))
    with pytest.raises(ParamsError, match="this clone is shallow") as refused:
        read_run("main", clone)
    command = str(refused.value).split("`")[1]
    assert command == "git fetch --depth 1 origin +refs/heads/main:refs/remotes/origin/main"
    git(clone, *command.split()[1:])
    assert read_run("main", clone).scores == read_run("origin/main", clone).scores
    assert read_run("main", clone).scores["similarity"]["r0"] == 0
    assert read_run("HEAD", clone).scores["similarity"]["r0"] == 39


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("HEAD~7", "this clone is shallow: `git fetch --deepen 50` brings older commits"),
        ("HEAD^", "this clone is shallow: `git fetch --deepen 50` brings older commits"),
        ("old;rm", "`git fetch --depth 1 origin '+refs/heads/old;rm:refs/remotes/origin/old;rm'` brings a branch"),
        ("old~1", "`git fetch --depth 50 origin +refs/heads/old:refs/remotes/origin/old` brings a branch"),
        ("a b", "see `git branch -a`"),
        ("--all", "see `git branch -a`"),
        ("^main", "see `git branch -a`"),
    ],
)
def test_a_shallow_clone_is_told_only_what_git_can_do(repository, tmp_path, name, remedy):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(clone))
    with pytest.raises(ParamsError) as refused:
        find_commit(name, clone)
    assert f"{remedy}, `dvc exp list -A` shows experiments" in str(refused.value)


def test_the_depth_that_is_recommended_is_enough(repository, tmp_path):
    commit(repository, "second")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(clone))
    with pytest.raises(ParamsError, match="deepen") as refused:
        find_commit("HEAD~1", clone)
    git(clone, *str(refused.value).split("`")[1].split()[1:])
    assert find_commit("HEAD~1", clone) == git(repository, "rev-parse", "HEAD~1")


def test_an_owner_that_git_distrusts_is_said_in_gits_words(repository, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    with pytest.raises(InstructError, match="detected dubious ownership") as refused:
        find_commit("main", repository)
    assert f"run `git config --global --add safe.directory {repository}`" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("mode", [None, 0o644])
def test_without_git_one_line_says_so(repository, tmp_path, monkeypatch, mode):
    (tmp_path / "bin").mkdir()
    if mode:
        (tmp_path / "bin/git").write_text("#!/bin/sh\n")
        (tmp_path / "bin/git").chmod(mode)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for ask in (lambda: find_commit("main", repository), lambda: run_git(repository, "status")):
        with pytest.raises(InstructError, match=r"^git: cannot be run \((it is not on PATH|Permission denied)\); "):
            ask()
    assert read_run("workspace", repository).scores  # the workspace needs no Git


def test_outside_of_git_one_line_says_so(tmp_path):
    with pytest.raises(ParamsError, match=r"is not a Git repository; run inside a clone"):
        find_commit("main", tmp_path)


@pytest.mark.parametrize("path", ["metrics/evaluate.json", "metrics/scores.csv"])
def test_a_run_without_metrics_says_which_and_what_to_run(repository, path):
    git(repository, "rm", "-q", path)
    commit(repository)
    with pytest.raises(DataError, match=rf"^HEAD: .* {path};"):
        read_run("HEAD", repository)


@pytest.mark.parametrize(
    "text",
    ["train: [", "a: 2020-13-45", "a: !!int abc", "a: !!bool x", "a: &a {b: *a}", "a: &a [*a]", "[" * 500 + "]" * 500],
)
def test_settings_that_cannot_be_read_are_one_line(repository, text):
    (repository / "params.yaml").write_text(text)
    with pytest.raises(DataError, match=r"^params\.yaml of workspace:\d") as refused:
        read_run("workspace", repository)
    assert "\n" not in str(refused.value)


RESULTS = ("metrics/evaluate.json", "metrics/scores.csv")


@pytest.mark.parametrize(
    ("recorded", "now", "lines"),
    [
        ({"train": {"seed": 123, "lr": 0.0002}}, {}, []),
        ({"train.lr": 0.0002}, {}, []),
        ({}, {"train.lr": 0.01}, []),  # no stage was run with it
        ({"train": {"seed": 123, "lr": 0.0002}}, {"train.lr": 0.01}, ["train.lr is 0.01 in params.yaml, 0.0002"]),
        ({"train.lr": 0.0002}, {"train.lr": 0.01}, ["train.lr is 0.01 in params.yaml, 0.0002"]),
        ({"train": {"seed": 123}}, {}, ["train.lr is 0.0002 in params.yaml, absent"]),
        ({"train": {"seed": 123, "lr": 0.0002, "old": 1}}, {}, ["train.old is absent in params.yaml, 1"]),
        ({"train": {"seed": 1, "lr": 1}}, {}, ["train.lr is 0.0002 in params.yaml, 1", "train.seed is 123 in"]),
    ],
)
def test_results_of_other_settings_are_stale(repository, recorded, now, lines):
    write_run(repository, {"similarity": FORTY}, params=now)
    write_lock(repository, params=recorded, outs=RESULTS)
    commit(repository)
    for name in ("workspace", "HEAD"):
        stale = read_run(name, repository).stale
        assert len(stale) == len(lines) and all(map(str.startswith, stale, lines))
        assert all(line.endswith(" in dvc.lock: run dvc repro") for line in stale)


@pytest.mark.parametrize("path", RESULTS)
def test_results_that_the_lock_does_not_name_are_stale(repository, path):
    write_lock(repository, params={}, outs=RESULTS)
    commit(repository)
    file = repository / path
    file.write_bytes(file.read_bytes().replace(b"riddle", b"puzzle"))
    assert read_run("HEAD", repository).stale == ()
    assert read_run("workspace", repository).stale == (f"{path} is not the one of dvc.lock: run dvc repro",)


@pytest.mark.parametrize("lock", [None, "", "3", "stages: 3", "stages: {a: {outs: 3x, params: []}}", "stages: {a: 3}"])
def test_a_lock_that_says_nothing_makes_nothing_stale(repository, lock):
    if lock is not None:
        (repository / "dvc.lock").write_text(lock)
    assert read_run("workspace", repository).stale == ()


def test_answers_that_were_judged_before_they_changed_are_stale(repository):
    (repository / "data").mkdir()
    (repository / "data/responses.json").write_text("[]")
    write_lock(repository, outs=["data/responses.json"])
    (line,) = read_run("workspace", repository).stale
    assert line.startswith("data/responses.json ")
    write_run(repository, {"similarity": FORTY}, md5s={"sft": md5(b"[]").hexdigest()})
    assert read_run("workspace", repository).stale == ()


@pytest.mark.parametrize("path", ["metrics/train.json", "metrics/split.json", "metrics/data.json"])
@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_what_another_stage_wrote_is_an_object_or_refused_by_name(repository, path, text):
    assert read_run("workspace", repository).train == {}
    (repository / path).write_text(text)
    with pytest.raises(DataError, match=f"^{path} of workspace"):
        read_run("workspace", repository)


@pytest.mark.parametrize("details", [[], 3, [3], {"best_step": 1}])
def test_a_training_without_its_details_is_refused_by_what_it_lacks(repository, details):
    losses = {"steps": 4, "initial_val_loss": 3.25, "best_val_loss": 1.5}
    (repository / "metrics/train.json").write_text(json.dumps({**losses, "details": details}))
    with pytest.raises(DataError, match=r"^metrics/train\.json of workspace: best_step "):
        read_run("workspace", repository)


@pytest.mark.parametrize(
    ("text", "place"),
    [("step,loss\n0,3\n1,\n", ":3"), ("step,loss\n0,high\n", ":2"), ("step\n0\n", ""), ("step,loss\n0\n", ":2")],
)
def test_a_curve_with_a_hole_is_refused_with_its_line(repository, text, place):
    (repository / "metrics/curves/val.csv").write_text(text)
    with pytest.raises(DataError, match=f"^metrics/curves/val.csv of workspace{place}: "):
        read_run("workspace", repository)


def test_a_loss_that_is_not_finite_is_kept(repository):
    (repository / "metrics/curves/val.csv").write_text("step,loss\n0,nan\n1,inf\n")
    losses = [row["loss"] for row in read_run("workspace", repository).curves["val"]]
    assert math.isnan(losses[0]) and losses[1] == math.inf


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"equal": 0, "near": 3}, "3 of 9 test records have a near-duplicate in train"),
        ({"equal": 3, "near": 3}, "3 of 9 test records have a near-duplicate in train"),
        ({"equal": 1, "near": 0}, "1 of 9 test records has an equal prompt in train"),
        ({"equal": 0, "near": 0}, ""),
        ({"near": "many"}, ""),
        (None, ""),
    ],
)
def test_a_run_knows_of_test_records_that_are_also_in_train(found, words):
    split = {"test": 9, "across": {"test": found, "val": {"equal": 5, "near": 5}}}
    run = replace(make_run("run", {"reference": {"base": [1.0], "sft": [2.0]}}), split=split)
    assert run.leak.startswith(words) and bool(run.leak) == bool(words) == bool(all_leak_lines([run]))
    assert replace(run, split={}).leak == ""

import shutil
import subprocess
import sys

import pytest
import yaml
from viewing.repository import Repository, git

from instruct.core.errors import ParamsError
from instruct.core.git import list_experiments
from instruct.results.revisions import list_revisions, names_of_commits, read_files
from instruct.viewing.collect import collect_runs


@pytest.fixture
def repository(tmp_path):
    repository = Repository(tmp_path, records=4)
    repository.write(mean=50.0)
    repository.commit()
    repository.write(mean=60.0, lr=1e-4, seed=1)
    repository.keep_as_experiment("lower-lr")
    return repository


def names(runs):
    return [run.revision.name for run in runs]


def test_workspace_branch_and_experiments_are_found_and_an_unchanged_workspace_is_not_shown_twice(repository):
    assert names(collect_runs(repository.folder)) == ["main", "lower-lr"]
    repository.put("params.yaml", "train: {lr: 0.5}\n")
    runs = collect_runs(repository.folder)
    assert names(runs) == ["workspace", "main", "lower-lr"]
    assert runs[0].run.params == {"train": {"lr": 0.5}}


def test_each_run_has_its_own_files(repository):
    main, other = collect_runs(repository.folder)
    assert [one.run.params["train"]["lr"] for one in (main, other)] == [2e-4, 1e-4]
    assert main.run.scores["reference"] != other.run.scores["reference"]
    assert main.answers["sft"][0].response == "answer of sft 0"
    assert other.answers["sft"][0].response == "answer of sft 1"
    assert main.missing == other.missing == ()


def test_what_git_reads_is_what_git_shows(repository):
    revisions = list_revisions(repository.folder)
    paths = ("params.yaml", "metrics/scores.csv", "no/such/file", "metrics/train.json")
    for revision, files in list(zip(revisions, read_files(repository.folder, revisions, paths), strict=True))[1:]:
        assert set(files) == {"params.yaml", "metrics/scores.csv", "metrics/train.json"}
        for path, content in files.items():
            shown = ["git", "show", f"{revision.commit}:{path}"]
            assert content == subprocess.run(shown, cwd=repository.folder, capture_output=True, check=True).stdout


def test_a_project_in_a_folder_of_its_repository_is_read_from_there(tmp_path):
    Repository(tmp_path, records=2)
    inner = Repository(tmp_path / "inner", records=2)
    (inner.folder / ".git").rename(tmp_path / "unused")
    inner.write()
    inner.commit()
    (run,) = collect_runs(inner.folder)
    assert (run.name, run.run.params["train"]["lr"]) == ("main", 2e-4)


def test_experiments_of_older_commits_stay_and_say_where_they_began(repository):
    start = git(repository.folder, "rev-parse", "HEAD")
    git(repository.folder, "branch", "old")
    repository.write(mean=55.0, seed=2)
    repository.commit()
    revisions = list_revisions(repository.folder)
    assert [one.name for one in revisions if one.kind == "experiment"] == ["lower-lr"]
    assert names_of_commits(repository.folder, revisions) == {start: "old"}


def test_a_revision_that_is_asked_for_is_added_and_an_unknown_one_refused(repository):
    git(repository.folder, "tag", "v1")
    repository.write(mean=70.0, seed=3)
    repository.commit()
    assert names(collect_runs(repository.folder, ["v1"])) == ["main", "v1", "lower-lr"]
    assert names(collect_runs(repository.folder, ["lower-lr"])) == ["main", "lower-lr"]
    for name in ("nope", "--all"):
        with pytest.raises(ParamsError, match=f'^there is no revision or experiment "{name}"'):
            collect_runs(repository.folder, [name])


def test_no_commit_is_shown_twice_whatever_names_it_is_asked_for_by(repository):
    git(repository.folder, "tag", "v1")
    (experiment,) = list_experiments(repository.folder)
    asked = ["v1", "HEAD", "main", "workspace", experiment.commit, "lower-lr"]
    assert names(collect_runs(repository.folder, asked)) == ["main", "lower-lr"]


def test_the_newest_experiment_comes_first_whatever_time_zone_it_ended_in(repository, monkeypatch):
    times = {
        "noon": "2026-03-01T12:00:00+0000",
        "earlier": "2026-03-01T20:00:00+0900",
        "later": "2026-03-01T05:00:00-0800",
    }
    for seed, (name, when) in enumerate(times.items()):
        monkeypatch.setenv("GIT_COMMITTER_DATE", when)
        repository.write(seed=seed, lr=1e-5)
        repository.keep_as_experiment(name)
    found = [one for one in list_experiments(repository.folder) if one.name in times]
    assert [one.name for one in found] == ["later", "noon", "earlier"]
    assert [one.when for one in found] == [f"2026-03-01T{hour}:00:00+00:00" for hour in (13, 12, 11)]


def test_answers_that_the_cache_lacks_are_missed_in_words(repository):
    (repository.folder / "metrics/scores.csv").unlink()
    repository.write(mean=40.0, seed=4, keep=False)
    repository.keep_as_experiment("elsewhere")
    run = next(run for run in collect_runs(repository.folder) if run.revision.name == "elsewhere")
    assert run.answers == {}
    assert all("data/" in line and "`dvc fetch`" in line for line in run.missing) and len(run.missing) == 1
    assert len(run.run.scores["reference"]) == 4  # they are in Git, by record


def test_scores_of_other_settings_are_said_to_be_stale_and_those_of_other_runs_are_not(repository):
    repository.write(mean=50.0)
    lock = yaml.safe_load((repository.folder / "dvc.lock").read_text())
    lock["stages"]["train"] = {"cmd": "x", "params": {"params.yaml": {"train.lr": 2e-4}}}
    repository.put("dvc.lock", yaml.safe_dump(lock))
    repository.commit()
    repository.put("params.yaml", yaml.safe_dump({"train": {"seed": 123, "lr": 0.5}}))
    workspace, main, _ = collect_runs(repository.folder)
    (line,) = workspace.missing
    assert line == f"stale: {workspace.run.stale[0]}" and "train.lr" in line
    assert main.missing == ()


def test_answers_are_those_of_the_records_whose_scores_they_stand_beside_in_whatever_order_the_scores_are(repository):
    repository.write(mean=50.0)
    head, *lines = (repository.folder / "metrics/scores.csv").read_text().splitlines()
    repository.put("metrics/scores.csv", "\n".join([head, *lines[::-1]]) + "\n")
    workspace, main, _ = collect_runs(repository.folder)
    for entry, ids in ((workspace, ["r3", "r2", "r1", "r0"]), (main, ["r0", "r1", "r2", "r3"])):
        assert list(entry.run.kinds) == ids
        assert [[row.id for row in rows] for rows in entry.answers.values()] == [ids, ids]


def test_answers_to_other_records_than_the_scores_are_of_are_left_out_with_the_reason(repository):
    repository.write(mean=50.0)
    scores = (repository.folder / "metrics/scores.csv").read_text()
    repository.put("metrics/scores.csv", scores.replace("r3,", "r9,"))
    workspace, *_ = collect_runs(repository.folder)
    assert workspace.answers == {} and workspace.run.scores["reference"]["r9"]
    assert [line.startswith("metrics/scores.csv of workspace") for line in workspace.missing] == [True, True]


def test_without_git_the_workspace_is_shown_alone(tmp_path):
    repository = Repository(tmp_path / "project", records=2)
    repository.write()
    (tmp_path / "project/.git").rename(tmp_path / "gone")
    assert names(collect_runs(repository.folder)) == ["workspace"]
    with pytest.raises(ParamsError, match=r"^project: is not a Git repository"):
        collect_runs(repository.folder, ["main"])


@pytest.mark.slow
def test_experiments_that_dvc_itself_ran_are_found_with_their_answers(tmp_path, monkeypatch):
    """The refs and the cache are DVC's own: this is what `repository.py` imitates."""
    for variable in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    folder = tmp_path / "project"
    repository = Repository(folder, records=3)

    def dvc(*arguments):
        done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    repository.write()
    (folder / "dvc.lock").unlink()
    shutil.rmtree(folder / ".dvc")
    (folder / ".gitignore").write_text("/data/\n")
    script = """
import hashlib, json, pathlib, yaml
lr = yaml.safe_load(open("params.yaml"))["train"]["lr"]
for name in ("data/baselines/base.json", "data/responses.json"):
    path = pathlib.Path(name)
    rows = json.loads(pathlib.Path(name.replace("data/", "seed/")).read_text())
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([{**row, "response": f"by lr {lr}"} for row in rows]))
results = json.loads(pathlib.Path("metrics/seed.json").read_text())
for system in results["systems"]:
    system["md5"] = hashlib.md5(pathlib.Path(system["answers"]).read_bytes()).hexdigest()
pathlib.Path("metrics/evaluate.json").write_text(json.dumps(results))
"""
    (folder / "run.py").write_text(script)
    (folder / "data").rename(folder / "seed")
    (folder / "data").mkdir()
    (folder / "metrics/evaluate.json").rename(folder / "metrics/seed.json")
    outs = ["data/baselines/base.json", "data/responses.json", {"metrics/evaluate.json": {"cache": False}}]
    stage = {"cmd": f"{sys.executable} run.py", "deps": ["run.py"], "params": ["train"], "outs": outs}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"all": stage}}))
    git(folder, "config", "user.name", "t")
    git(folder, "config", "user.email", "t@example.org")
    dvc("init", "--quiet")
    dvc("repro", "--quiet")
    repository.commit()
    dvc("exp", "run", "--quiet", "-n", "lower-lr", "-S", "train.lr=0.0001")
    git(folder, "checkout", "--force", "--quiet", "HEAD")
    found = {run.revision.name: run for run in collect_runs(folder)}
    assert found["lower-lr"].run.params["train"]["lr"] == 1e-4
    assert found["lower-lr"].answers["sft"][0].response == "by lr 0.0001"
    assert found["main"].answers["sft"][0].response == "by lr 0.0002"

"""`instruct compare`, `variance` and `power` as a user types them, on real Git and DVC repositories."""

import json
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from html import unescape
from io import BytesIO, TextIOWrapper
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import warm
import yaml
from comparing.small_runs import ENVIRONMENT, commit, dvc, git, make_repository, write_lock, write_run
from scipy.stats import norm

from instruct.cli import run

SRC = Path(__file__).parents[2] / "src"
RNG = np.random.default_rng(3)
BEFORE = RNG.uniform(10, 80, 50).round(3).tolist()
BETTER = (np.asarray(BEFORE) + 12 + RNG.normal(0, 4, 50)).clip(0, 100).round(3).tolist()


@pytest.fixture(autouse=True)
def without_charts(monkeypatch):
    """Only what runs by itself draws them: that takes most of a report's time."""
    monkeypatch.setattr("instruct.comparing.report.draw_charts", lambda comparison: {})


def instruct(root, *arguments):
    """The exit status and the output of the command, run in this process."""
    out, err = (TextIOWrapper(BytesIO(), encoding="utf-8") for _ in range(2))
    with (  # guard_output and make_site_cache_private change what these put back
        patch.dict(os.environ, ENVIRONMENT),
        patch.object(sys, "argv", ["instruct", *map(str, arguments)]),
        chdir(root),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        run()
    printed = []
    for stream in (out, err):
        stream.seek(0)
        printed.append(stream.read())
    return ended.value.code or 0, *printed


def instruct_by_itself(root, *arguments, **environment):
    """The same in a process of its own."""
    env = os.environ | ENVIRONMENT | {"PYTHONPATH": str(SRC)} | environment
    done = warm.python("-c", "from instruct.cli import run; run()", *arguments, cwd=root, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = make_repository(tmp_path_factory.mktemp("commands") / "repository", with_dvc=True)
    write_run(root, {"similarity": BEFORE}, md5s={"sft": "1"})
    (root / ".gitignore").write_text("/report/\n")
    commit(root)
    git(root, "checkout", "-q", "-b", "work")
    write_run(root, {"similarity": BETTER}, params={"train.lr": 0.001}, md5s={"sft": "2"})
    commit(root)
    return root


def test_two_branches_are_compared_and_the_exit_code_tells_a_gate(repository):
    status, out, _ = instruct_by_itself(repository, "compare", "main", "work", "--fail-if", "worse-by 2")
    assert status == 0
    assert "These two models differ: work is higher in similarity than main." in out
    assert {path.name for path in (repository / "report").iterdir()} == {"report.md", "report.html"}
    status, out, _ = instruct_by_itself(repository, "compare", "work", "main", "--fail-if", "worse-by 2")
    assert (status, "main is lower in similarity than work." in out) == (3, True)
    assert instruct(repository, "compare", "work", "main", "--fail-if", "worse-by 20")[0] == 0
    status, out, _ = instruct(repository, "compare", "main", "main", "--fail-if", "worse")
    assert status == 0 and out.splitlines()[-2] == "main and main gave the same answers, byte for byte."
    assert instruct(repository, "compare", "main", "main", "--fail-if", "not-better")[0] == 3


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Two seeds of a recipe and two of one that is better by 12 points, each a branch."""
    root = make_repository(tmp_path_factory.mktemp("seeds") / "repository", with_dvc=True)
    (root / ".gitignore").write_text("/report/\n")
    for place, (name, shift, lr) in enumerate(
        [("a1", 0, 0.0002), ("a2", 0, 0.0002), ("b1", 12, 0.001), ("b2", 12, 0.001)]
    ):
        noise = np.random.default_rng(place).normal(0, 4, 50)
        scores = (np.asarray(BEFORE) + shift + noise - noise.mean()).clip(0, 100).round(3).tolist()
        params = {"train.lr": lr, "train.seed": place % 2}
        write_run(root, {"similarity": scores}, params=params, md5s={"sft": str(place)})
        commit(root)
        git(root, "branch", name)
    return root


def test_a_recipe_is_better_or_worse_only_with_two_seeds_a_side(seeds):
    for sides, gate, ends in ((("b1,b2", "a1,a2"), "worse", 3), (("a1,a2", "b1,b2"), "not-better", 0)):
        status, out, err = instruct(seeds, "compare", *sides, "--fail-if", gate)
        assert status == ends, err
        assert "This speaks of the recipes" in out and "models differ" not in out
    assert "b1 + b2 is better in similarity than a1 + a2." in out
    for sides in (("b1", "a1"), ("b1,b2", "a1")):
        status, out, err = instruct(seeds, "compare", *sides, "--fail-if", "worse")
        assert status == 1 and "needs 2 seeds or more of each" in err
        assert "models differ" in out and "is lower in similarity than" in out and "worse in" not in out


def test_a_recipe_is_compared_with_the_baseline_of_its_own_runs(seeds):
    status, out, err = instruct(seeds, "compare", "b1,b2", "--baseline", "best", "--fail-if", "not-better")
    assert status == 0, err
    assert "b1 + b2 is better in similarity than base." in out and "This speaks of the recipes" in out
    assert "parameters" not in out and "STALE" not in out
    for page in ("report/report.md", "report/report.html"):
        text = (seeds / page).read_text()
        assert "Parameters" not in text and "Biggest gains" in text
    status, out, err = instruct(seeds, "compare", "b1", "--baseline", "base")
    assert status == 0 and "This speaks of this trained model; a verdict on its recipe takes" in out, err
    status, _, err = instruct(seeds, "compare", "b1", "b2", "--baseline", "best")
    assert status == 1 and "leave out b2" in err
    status, _, err = instruct(seeds, "compare", "b1", "--baseline", "bose")
    assert status == 1 and "did you mean base?" in err and "Not compared" in (seeds / "report/report.md").read_text()


def test_recorded_seeds_tell_how_often_they_alone_would_be_called_different(seeds, tmp_path):
    git(tmp_path, "clone", "-q", str(seeds), "clone")
    clone = tmp_path / "clone"
    status, out, _ = instruct(clone, "compare", "origin/a1", "origin/b1")
    assert status == 0 and "is not known: no spread of similarity between seeds is recorded" in out
    status, out, err = instruct(clone, "variance", "origin/a1", "origin/a2", "--record", "--score", "similarity")
    assert status == 0 and out.splitlines()[-1] == "recorded in metrics/seeds.json", err
    recorded = json.loads((clone / "metrics/seeds.json").read_text())["scores"]["similarity"]
    assert (recorded["seeds"], recorded["records"]) == (2, 50)
    status, out, _ = instruct(clone, "compare", "origin/a1", "origin/b1")
    (line,) = [line for line in out.splitlines() if "in train.seed alone would be called different in" in line]
    error = np.std(np.subtract(*(read_scores(clone, name) for name in ("a1", "b1"))), ddof=1) / 50**0.5
    rates = [
        200 * norm.sf(1.96 * error / np.hypot(error, recorded[key] * 2**0.5)) for key in ("seed_sd", "seed_sd_most")
    ]
    assert f"in {rates[0]:.0f} % of such pairs ({rates[1]:.0f} % at the upper limit)" in line
    assert f"in {rates[0]:.0f} % of such pairs" in unescape((clone / "report/report.html").read_text())
    (clone / "metrics/seeds.json").write_text('{"scores": {"similarity": {"seeds": "two"}}}')
    status, _, err = instruct(clone, "compare", "origin/a1", "origin/b1")
    assert status == 1 and "metrics/seeds.json: scores.similarity.seeds must be" in err


def read_scores(root, name):
    text = git(root, "show", f"origin/{name}:metrics/scores.csv").splitlines()
    place = text[0].split(",").index("similarity_sft")
    return [float(row.split(",")[place]) for row in text[1:]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "mian"), 'instruct: there is no revision or experiment "mian"; see `git branch -a`'),
        (("compare", "mian"), "did you mean main?"),
        (("view", "mian"), 'instruct: there is no revision or experiment "mian"; see `git branch -a`'),
        (("view", "mian"), "did you mean main?"),
        (("view", "--against", "wrok"), "did you mean work?"),
        (("compare", "main", "metrics"), "the folder metrics has no proof.json"),
        (
            ("compare", "main", "work", "--score", "simi"),
            'there is no score "simi" in every run; did you mean similarity?',
        ),
        *(
            (("compare", "main", "work", "--fail-if", gate), "--fail-if must be worse, not-better, or worse-by")
            for gate in ("sad", "worse-by", "worse-by x", "worse-by 0", "worse-by 100", "worse-by -1", "not-better 2")
        ),
        (("compare", ","), "instruct: give a revision, a DVC experiment or `workspace`"),
        (("variance", "main", "work"), "main and work: differ in more than seeds (train.lr)"),
        (("power",), "give two runs or several seeds, or --sd"),
        (("power", "main"), "one run shows no difference"),
        *(
            (("power", *options), "give two runs or several seeds, or --sd")
            for options in (("--sd", "-3"), ("--sd", "nan"), ("--sd", "inf"), ("--sd", "35", "--seed-sd", "-1"))
        ),
        (("power", "main", "work", "--sd", "35"), "leave them out"),
    ],
)
def test_a_mistake_is_one_line(repository, arguments, message):
    status, out, err = instruct(repository, *arguments)
    assert (status, out) == (1, "")
    assert message in err and len(err.splitlines()) == 1


def test_a_gate_cannot_pass_what_is_not_comparable(repository, tmp_path):
    git(tmp_path, "clone", "-q", str(repository), "clone")
    clone = tmp_path / "clone"
    write_run(clone, {"similarity": BETTER}, md5s={"sft": "3"}, test={"sha256": "f" * 64})
    status, out, err = instruct(clone, "compare", "work")
    assert (status, out) == (1, "")
    assert "the test set: 50 records (aaaaaaaaaaaa) in work, 50 records (ffffffffffff) in workspace" in err
    for name in ("report.md", "report.html"):  # what a pull request shows, over the numbers of the time before
        text = (clone / "report" / name).read_text(encoding="utf-8")
        assert "Not compared." in text
        assert "the test set: 50 records (aaaaaaaaaaaa) in work, 50 records (ffffffffffff) in workspace" in text
    status, out, err = instruct(clone, "compare", "work", "--anyway")
    assert status == 0 and "NOT COMPARABLE: the test set" in out and "are not comparable." in out
    status, _, err = instruct(clone, "compare", "work", "--anyway", "--fail-if", "worse-by 2")
    assert status == 1 and "--fail-if cannot judge what is not comparable" in err


def test_a_gate_cannot_pass_results_of_other_settings(repository, tmp_path):
    git(tmp_path, "clone", "-q", str(repository), "clone")
    clone = tmp_path / "clone"
    write_lock(
        clone, params={"train": {"seed": 123, "lr": 0.001}}, outs=["metrics/evaluate.json", "metrics/scores.csv"]
    )
    assert instruct(clone, "compare", "origin/main", "--fail-if", "worse-by 2")[0] == 0
    params = (clone / "params.yaml").read_text(encoding="utf-8")
    (clone / "params.yaml").write_text(params.replace("lr: 0.001", "lr: 0.01"), encoding="utf-8")
    line = "workspace: train.lr is 0.01 in params.yaml, 0.001 in dvc.lock: run dvc repro"
    status, out, err = instruct(clone, "compare", "origin/main", "--fail-if", "worse-by 2")
    assert (status, err) == (1, f"instruct: --fail-if cannot judge results of other settings: {line}\n")
    assert f"STALE: {line}" in out
    assert f"> - {line}" in (clone / "report/report.md").read_text(encoding="utf-8")
    assert instruct(clone, "compare", "origin/main")[0] == 0  # without a gate it is said, no more


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("mian",), 'there is no revision or experiment "mian"'),
        (("main", "work", "--score", "simi"), 'there is no score "simi" in every run'),
        (("main", "work", "--fail-if", "sad"), "--fail-if must be worse, not-better, or worse-by"),
        ((",",), "give a revision, a DVC experiment or `workspace`"),
    ],
)
def test_a_refusal_stands_in_the_place_of_the_report_before(repository, tmp_path, arguments, reason):
    for name in ("report.md", "report.html"):
        (tmp_path / name).write_text("work is higher in similarity than main.")
    status, out, err = instruct(repository, "compare", *arguments, "--out", str(tmp_path))
    assert (status, out) == (1, "") and reason in err
    for name in ("report.md", "report.html"):
        text = unescape((tmp_path / name).read_text(encoding="utf-8"))
        assert "Not compared." in text and reason in text and "is better" not in text


def test_a_refusal_is_said_also_where_it_cannot_be_written(repository, tmp_path):
    (tmp_path / "file").touch()
    status, out, err = instruct(repository, "compare", "mian", "--out", str(tmp_path / "file"))
    refusal, unwritten = err.splitlines()
    assert (status, out) == (1, "") and 'no revision or experiment "mian"' in refusal
    assert unwritten.startswith(f"{tmp_path}/file/report.md: cannot be written")


def test_a_terminal_without_arrows_still_gets_its_lines(repository):
    status, out, _ = instruct_by_itself(repository, "compare", "main", "work", PYTHONIOENCODING="ascii")
    assert status == 0 and "main ? work: 50 records" in out


def test_a_name_that_is_no_text_is_refused_in_one_line(repository):
    status, out, err = instruct_by_itself(repository, "compare", b"caf\xe9")
    assert (status, out) == (1, "") and len(err.splitlines()) == 1
    assert "no revision or experiment" in (repository / "report/report.md").read_text(encoding="utf-8")


def test_a_curve_with_a_hole_is_one_line(repository, tmp_path):
    git(tmp_path, "clone", "-q", str(repository), "clone")
    curve = tmp_path / "clone" / "metrics/curves/val.csv"
    curve.write_text(curve.read_text(encoding="utf-8").replace("2,1.0", "2,"), encoding="utf-8")
    status, out, err = instruct(tmp_path / "clone", "compare", "work")
    assert (status, out) == (1, "")
    assert err.startswith("instruct: metrics/curves/val.csv of workspace:4: ") and err.count("\n") == 1


def test_a_project_may_lie_in_a_folder_of_its_repository(tmp_path):
    root = make_repository(tmp_path / "repository")
    project = root / "projects" / "ours"
    project.mkdir(parents=True)
    write_run(project, {"similarity": BEFORE}, md5s={"sft": "1"})
    commit(root)
    write_run(project, {"similarity": BETTER}, md5s={"sft": "2"})
    status, out, _ = instruct(project, "compare", "main")
    assert (status, "workspace is higher in similarity than main." in out) == (0, True)


def test_experiments_of_dvc_are_compared_by_name(tmp_path):
    root = make_repository(tmp_path / "repository", with_dvc=True)
    write_run(root, {"similarity": BEFORE})
    script = (
        "import csv, json, yaml; seed = yaml.safe_load(open('params.yaml'))['train']['seed']\n"
        "rows = list(csv.reader(open('metrics/start.csv')))\n"
        "place = rows[0].index('similarity_sft')\n"
        "for row in rows[1:]: row[place] = str(float(row[place]) + seed % 7 / 10)\n"
        "csv.writer(open('metrics/scores.csv', 'w')).writerows(rows)\n"
        "results = json.load(open('metrics/start.json'))\n"
        "mean = sum(float(row[place]) for row in rows[1:]) / len(rows[1:])\n"
        "results['systems'][1]['measures']['similarity'] = mean\n"
        "results['systems'][1]['md5'] = str(seed)\n"
        "json.dump(results, open('metrics/evaluate.json', 'w'))\n"
    )
    (root / "stage.py").write_text(script)
    (root / "metrics/scores.csv").rename(root / "metrics/start.csv")
    (root / "metrics/evaluate.json").rename(root / "metrics/start.json")
    stage = {
        "cmd": f"{sys.executable} stage.py",
        "deps": ["metrics/start.csv", "metrics/start.json", "stage.py"],
        "params": ["train.seed"],
        "outs": [{f"metrics/{name}": {"cache": False}} for name in ("evaluate.json", "scores.csv")],
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": stage}}))
    commit(root)
    for seed in (1, 2, 3):
        dvc(root, "exp", "run", "-q", "-n", f"seed-{seed}", "-S", f"train.seed={seed}")
    status, out, err = instruct(root, "variance", "seed-1", "seed-2", "seed-3")
    assert status == 0, err
    # Seeds add 0.1, 0.2 and 0.3 to every record and nothing else.
    assert "seed 0.10, judge unknown, item by seed 0.00" in out
    status, out, err = instruct(root, "compare", "seed-1", "seed-3")
    assert status == 0, err
    assert "train.seed: 1 → 3" in out and "+0.2 (95 % -7.2 to +7.6)" in out
    status, out, _ = instruct(root, "power", "seed-1", "seed-2", "seed-3", "--score", "similarity")
    assert status == 0 and "a run's mean has a standard deviation of 0.10 points from seed to seed" in out


def test_power_needs_no_run(tmp_path):
    status, out, _ = instruct(tmp_path, "power", "--sd", "35.3")
    assert status == 0
    rows = dict(line.split() for line in out.splitlines() if line.strip()[:1].isdigit())
    # Measured on the book's published scores: 4.4 points take about 500 records, 3.1 about 1000.
    assert 600 <= int(rows["4"]) <= 620 and 1080 <= int(rows["3"]) <= 1100


def test_a_thousand_records_in_a_shallow_clone_without_data(tmp_path):
    root = make_repository(tmp_path / "repository", with_dvc=True)
    scores = RNG.uniform(0, 90, 1000).round(3)
    names = ("reference", "similarity", "exact_match", "token_f1", "rouge_l", "chrf")
    write_run(root, dict.fromkeys(names, scores.tolist()), md5s={"sft": "1"})
    commit(root)
    git(root, "checkout", "-q", "-b", "work")
    write_run(root, dict.fromkeys(names, (scores + 5).tolist()), md5s={"sft": "2"})
    commit(root)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", "--branch", "work", f"file://{root}", str(clone))
    status, _, err = instruct(clone, "compare", "main")
    assert status == 1 and "this clone is shallow" in err
    git(clone, "fetch", "-q", "--depth", "1", "origin", "+refs/heads/main:refs/remotes/origin/main")
    status, out, err = instruct(clone, "compare", "main")
    assert status == 0, err
    assert "1000 records" in out and "workspace is higher in" in out
    assert "does not name data/responses.json" in (clone / "report/report.md").read_text()

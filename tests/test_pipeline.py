"""The whole pipeline in small: two smoke runs, shared by all tests here, and one experiment."""

import csv
import json
import math
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import warm
from ruamel.yaml import YAML
from small_pipeline import commit_all, content_of, git, run

from instruct.core.errors import InstructError
from instruct.results.runs import read_run
from instruct.tools.smoke import run_smoke

ROOT = Path(__file__).parents[1]
SMOKE_RECORDS = 40
# Importing torch ends the process with a status of its own, however the import is wrapped.
NO_TORCH = "import os\nos._exit(99)\n"


@pytest.fixture(scope="session")
def smoke_again(project, smoke, tmp_path_factory):
    """The folder of a second one, by the command line, from another place and with another seed of hashes."""
    folder = tmp_path_factory.mktemp("second") / "elsewhere" / "smoke"
    python = str(warm.programs(hash_seed="7") / "python")
    code = f"import sys; sys.executable = {python!r}; from instruct.cli import run; run()"
    done = run(python, "-c", code, "smoke", "--keep", str(folder), cwd=project, PYTHONPATH=str(ROOT / "src"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"the smoke run finished; its results are in {folder}"
    return folder


@pytest.fixture
def read(smoke):
    return lambda name: json.loads((smoke / name).read_text(encoding="utf-8"))


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_runs_in_two_folders_give_the_same_bytes(smoke, smoke_again):
    first, second = content_of(smoke), content_of(smoke_again)
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert {"dvc.lock", "metrics/train.json", "metrics/evaluate.json", "metrics/report/index.html"} <= set(first)
    cached = [{path.name for path in (folder / ".dvc/cache/files").rglob("*")} for folder in (smoke, smoke_again)]
    assert cached[0] == cached[1] != set()


def test_no_variable_for_threads_or_kernels_changes_an_answer(smoke, tmp_path):
    """With fewer threads than asked for, oneDNN leaves parts of products undefined; other kernels round otherwise."""
    answers = tmp_path / "responses.json"
    command = [sys.executable, "src/generate.py", "data/split/test.json", "models/sft/best", str(answers)]
    variables = {"OMP_THREAD_LIMIT": "1", "OMP_DYNAMIC": "true", "OMP_MAX_ACTIVE_LEVELS": "0"}
    variables |= {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
    done = run(*command, cwd=smoke, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert answers.read_bytes() == (smoke / "data/responses.json").read_bytes()


def test_no_result_holds_the_folder_or_the_time_of_the_run(smoke):
    for name in re.findall(r"path: (\S+)", (smoke / "dvc.lock").read_text()):
        assert not name.startswith("/")
    for name, content in content_of(smoke).items():
        if name.split("/")[0] in ("metrics", "dvc.lock") or name.startswith("data/"):
            assert str(smoke).encode() not in content, name
            assert not re.search(rb"20\d\d-\d\d-\d\d[T ]\d\d:\d\d", content), name


def test_smoke_leaves_the_project_as_it_was(project, before_smoke, smoke, smoke_again):
    assert content_of(project) == before_smoke
    assert git(project, "status", "--porcelain") == ""
    assert before_smoke["metrics/train.json"] == b"my own result"


def test_smoke_uses_nothing_of_the_users_own_results(smoke):
    assert [name for name, content in content_of(smoke).items() if content == b"my own result"] == []


def test_what_a_run_makes_is_ignored_by_git_or_a_small_tracked_result(project, before_smoke, smoke):
    made = sorted(set(content_of(smoke)) - set(git(project, "ls-files").splitlines()))
    ignored = git(project, "check-ignore", *made).splitlines()
    tracked = [name for name in made if name not in ignored]
    assert {name.split("/")[0] for name in tracked} <= {"metrics"} | {"data"}
    assert [name for name in tracked if name.startswith("data/")] == ["data/smoke.json"]
    assert all((smoke / name).stat().st_size < 100_000 for name in tracked)
    assert {"data/responses.json", "data/judgements.json", "metrics/report/index.html"} <= {*ignored, *before_smoke}


def test_every_record_is_counted_from_split_to_evaluate(smoke, read):
    split = read("metrics/split.json")
    assert split["read"] == split["kept"] + split["refused"] == SMOKE_RECORDS
    assert split["train"] + split["val"] + split["test"] == split["kept"]
    parts = {name: read(f"data/split/{name}.json") for name in ("train", "val", "test")}
    assert {name: len(part) for name, part in parts.items()} == {name: split[name] for name in parts}
    train = read_run("workspace", smoke).train
    for name in ("train", "val"):
        assert train[name]["records"] + train[name]["dropped"] == split[name]
        assert 0 < train[name]["response_tokens"] < train[name]["tokens"]
    ids = [record["id"] for record in parts["test"]]
    baselines = sorted(path.stem for path in (smoke / "data/baselines").glob("*.json"))
    assert {"base", "echo", "nearest"} < set(baselines)
    for name in (*(f"data/baselines/{one}.json" for one in baselines), "data/responses.json"):
        assert [response["id"] for response in read(name)] == ids
    judgements = read("data/judgements.json")
    assert [(j["system"], j["id"]) for j in judgements] == [(s, id_) for s in (*baselines, "sft") for id_ in ids]
    results = results_of(smoke)
    (judge,) = results.judges
    assert results.test.records == len(ids) and results.names == (*baselines, "sft")
    assert all(one.scored + one.unscored == len(ids) for one in judge.systems)
    assert all(sum(one.stopped.values()) == len(ids) for one in results.systems)
    with (smoke / "metrics/scores.csv").open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ids
    difference = judge.difference_of("sft")
    assert difference.count == difference.wins + difference.ties + difference.losses <= len(ids)


def results_of(folder):
    found = read_run("workspace", folder)
    assert found.stale == ()
    return found.results


def test_scores_in_the_metrics_are_those_of_the_judgements(smoke, read):
    judgements = read("data/judgements.json")
    for one in results_of(smoke).main_judge.systems:
        scores = [j["score"] for j in judgements if j["system"] == one.system and j["score"] is not None]
        found = [one.mean, one.q1, one.median, one.q3]
        assert found == pytest.approx([np.mean(scores), *np.percentile(scores, [25, 50, 75])], abs=1e-4)
        assert one.low <= one.mean <= one.high


def test_metrics_are_finite_numbers_that_dvc_can_compare(smoke):
    def numbers(value):
        if isinstance(value, dict):
            for inner in value.values():
                yield from numbers(inner)
        elif not isinstance(value, list):
            yield value

    for path in (smoke / "metrics").glob("*.json"):
        for value in numbers(json.loads(path.read_text())):
            assert isinstance(value, str) or (type(value) in (int, float, bool) and math.isfinite(value)), path


def test_curves_have_their_columns_and_agree_with_the_metrics(smoke, read):
    train, val = (rows_of(smoke / f"metrics/curves/{name}.csv") for name in ("train", "val"))
    assert {"step", "epoch", "tokens", "loss", "lr"} <= set(train[0])
    assert {"step", "epoch", "tokens", "loss"} <= set(val[0])
    metrics, split = read_run("workspace", smoke).train, read("metrics/split.json")
    params = YAML(typ="safe").load((smoke / "params.yaml").read_text())["train"]
    steps = math.ceil(split["train"] / (params["micro_batch_size"] * params["grad_accum_steps"])) * params["epochs"]
    assert [int(row["step"]) for row in train] == list(range(1, steps + 1))
    assert metrics["steps"] == steps
    assert [int(row["step"]) for row in val] == [0, *range(params["eval_every"], steps + 1, params["eval_every"])]
    assert float(train[-1]["epoch"]) == params["epochs"]
    assert int(train[-1]["tokens"]) == metrics["train"]["tokens"]
    tokens = [int(row["tokens"]) for row in train]
    assert tokens == sorted(set(tokens))
    assert max(float(row["lr"]) for row in train) == params["lr"]
    losses = [float(row["loss"]) for row in val]
    assert losses[0] == pytest.approx(metrics["initial_val_loss"], rel=1e-4)
    assert min(losses) == pytest.approx(metrics["best_val_loss"], rel=1e-4)
    assert int(val[losses.index(min(losses))]["step"]) == metrics["best_step"]
    # A random model over 50,257 tokens knows nothing: its loss is that of a uniform guess.
    assert losses[0] == pytest.approx(math.log(50257), abs=0.1)


class Page(HTMLParser):
    """Collects what a browser would load, the tags, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.tags, self.texts, self.styles = [], [], [], []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._in_style = tag == "style"
        for name, value in attributes:
            if name.rsplit(":", 1)[-1] in ("src", "href", "srcset", "action", "data", "poster", "background"):
                self.loads.append(value)
            if name == "style" or "url(" in (value or ""):
                self.styles.append(value)

    def handle_endtag(self, tag):
        self._in_style = self._in_style and tag != "style"

    def handle_data(self, data):
        (self.styles if self._in_style else self.texts).append(data)


@pytest.fixture
def page(smoke):
    return Page((smoke / "metrics/report/index.html").read_text(encoding="utf-8"))


def test_page_loads_nothing_from_anywhere(page):
    assert [address for address in page.loads if not address.startswith("#")] == []
    urls = [url for style in page.styles for url in re.findall(r"url\(([^)]*)\)", style)]
    assert [url for url in urls if not url.startswith("#")] == []
    assert "@import" not in "".join(page.styles)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(page.tags)


def test_page_shows_the_numbers_the_figures_and_the_answers(page, smoke, read):
    text = " ".join("".join(page.texts).split())
    results = results_of(smoke)
    assert all(f"{one.mean:.1f}" in text for score in results.headline for one in score.systems)
    assert f"over {results.headline[0].difference_of('sft').count} records" in text
    assert results.main_judge.identity["score"] in text
    assert page.tags.count("svg") == 3
    lowest = min((j for j in read("data/judgements.json") if j["system"] == "sft"), key=lambda j: j["score"])
    answer = next(r for r in read("data/responses.json") if r["id"] == lowest["id"])
    for part in (answer["instruction"], answer["output"], answer["response"]):
        assert " ".join(part.split()) in text


def without_lists(value):
    """What DVC compares: it passes over lists, and over what holds nothing else."""
    if not isinstance(value, dict):
        return value
    kept = {name: without_lists(one) for name, one in value.items() if not isinstance(one, list)}
    return {name: one for name, one in kept.items() if one != {}}


def test_dvc_shows_metrics_and_plots_of_the_run(smoke, read):
    done = run("dvc", "metrics", "show", "--json", cwd=smoke)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)[""]["data"]
    assert {name: shown[name]["data"] for name in shown} == {name: without_lists(read(name)) for name in shown}
    assert set(shown) == {"metrics/summary.json", "metrics/train.json"}


def test_dvcs_tables_of_two_seeds_can_be_read(workplace):
    """All numbers that a seed can move are moved, in a run with as many metrics as the committed one."""
    shutil.copy(ROOT / "metrics/summary.json", workplace / "metrics/summary.json")
    commit_all(workplace)
    settled, moved = re.compile(r"^(?!diff).*_(base|base-chat|base-few-shot|echo|nearest)$|^initial_|^steps$"), set()
    for name in ("metrics/summary.json", "metrics/train.json"):
        values = json.loads((workplace / name).read_text())
        changed = [key for key, value in values.items() if not isinstance(value, list) and not settled.search(key)]
        moved.update(changed)
        values |= {key: round(values[key] + 1.2345, 4) for key in changed}
        (workplace / name).write_text(json.dumps(values))
    params = workplace / "params.yaml"
    params.write_text(re.sub(r"(?s)(\ntrain:.*?\n  seed: )\d+", r"\g<1>124", params.read_text()))
    diff = json.loads(run("dvc", "metrics", "diff", "--json", cwd=workplace).stdout)
    assert {key for rows in diff.values() for key in rows} == moved and 5 < len(moved) <= 12
    shown = json.loads(run("dvc", "exp", "show", "--json", cwd=workplace).stdout)
    for one in shown:
        assert sum(len(without_lists(file["data"])) for file in one["data"]["metrics"].values()) <= 25
    table = run("dvc", "exp", "show", "--only-changed", "--no-pager", cwd=workplace, COLUMNS="200").stdout
    assert "…" not in table and {*moved, "train.seed"} <= set(table.split())


def test_second_repro_runs_nothing_and_changes_nothing(smoke):
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file() and ".dvc" not in path.parts}
    done = run("dvc", "repro", cwd=smoke)
    assert done.returncode == 0, done.stderr
    assert "Data and pipelines are up to date." in done.stdout
    assert "Running stage" not in done.stdout
    after = {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file() and ".dvc" not in path.parts}
    assert after == before


@pytest.mark.parametrize(
    ("script", "inputs", "outputs", "systems"),
    [
        ("split.py", [], ["data/split", "metrics/split.json"], []),
        (
            "evaluate.py",
            ["data/human-scores.csv"],
            ["data/judgements.json", "metrics"],
            ["checks=data/split/checks.json", "baselines=data/baselines", "sft=data/responses.json"],
        ),
        ("plot.py", [], ["metrics/report/index.html"], []),
    ],
)
def test_stage_without_torch_gives_the_same_results(smoke, tmp_path, script, inputs, outputs, systems):
    (tmp_path / "trap" / "torch").mkdir(parents=True)
    (tmp_path / "trap" / "torch" / "__init__.py").write_text(NO_TORCH)
    trap = {"PYTHONPATH": str(tmp_path / "trap")}
    assert run(sys.executable, "-c", "import torch", cwd=smoke, **trap).returncode == 99
    arguments = [*inputs, *(str(tmp_path / out) for out in outputs), *systems]
    done = run(sys.executable, f"src/{script}", *arguments, cwd=smoke, **trap)
    assert (done.returncode, done.stderr) == (0, "")
    compared = 0
    for name in outputs:
        made = (
            [tmp_path / name]
            if (tmp_path / name).is_file()
            else [p for p in (tmp_path / name).rglob("*") if p.is_file()]
        )
        for path in made:
            assert path.read_bytes() == (smoke / path.relative_to(tmp_path)).read_bytes()
            compared += 1
    assert compared >= len(outputs)


def test_module_list_of_a_stage_without_torch_has_no_torch(smoke):
    code = (
        "import sys; sys.path.insert(0, 'src'); import split, evaluate, plot;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'tiktoken', 'gguf', 'transformers'}))"
    )
    done = run(sys.executable, "-c", code, cwd=smoke)
    assert (done.returncode, done.stdout) == (0, "[]\n")


# Writes down which code and which learning rate the training stage really used.
EVIDENCE = """

def _tell(self):
    import json
    _check(self)
    with open({path!r}, "a") as file:
        file.write(json.dumps([__file__, self.lr, type(self.lr).__name__]) + "\\n")


_check, TrainParams.__post_init__ = TrainParams.__post_init__, _tell
"""


@pytest.fixture
def experiments(smoke, tmp_path):
    """A Git repository made of a finished smoke run, whose own training code differs from the installed one."""
    where = run(sys.executable, "-c", "import instruct; print(instruct.__file__)", cwd=tmp_path)
    if Path(where.stdout.strip()) != ROOT / "src/instruct/__init__.py":
        pytest.skip("instruct is not installed editable from this project")
    folder = tmp_path / "experiments"
    shutil.copytree(smoke, folder)
    (folder / ".dvc/config.local").unlink()
    shutil.rmtree(folder / ".dvc/tmp")
    git(folder, "init", "--quiet")
    commit_all(folder)
    assert run("dvc", "status", "--quiet", cwd=folder).returncode == 0
    with (folder / "src/instruct/training/settings.py").open("a") as file:
        file.write(EVIDENCE.format(path=str(tmp_path / "evidence")))
    commit_all(folder)
    return folder


@pytest.mark.parametrize("how", ["--temp", pytest.param("--queue", marks=pytest.mark.slow)])
def test_experiment_runs_its_own_code_with_a_number_for_1e_5(experiments, tmp_path, how):
    before = content_of(experiments)
    settings = ["-S", "train.lr=1e-5", "train"]
    done = run("dvc", "exp", "run", how, "--name", "probe", *settings, cwd=experiments)
    assert done.returncode == 0, done.stdout + done.stderr
    if how == "--queue":
        done = run("dvc", "exp", "run", "--run-all", cwd=experiments)
        assert done.returncode == 0, done.stdout + done.stderr
    used = [json.loads(line) for line in (tmp_path / "evidence").read_text().splitlines()]
    assert used
    for file, lr, kind in used:
        assert (lr, kind) == (1e-5, "float")
        assert Path(file).is_relative_to(experiments / ".dvc" / "tmp" / "exps")
    assert content_of(experiments) == before
    (name,) = [
        line for line in git(experiments, "for-each-ref", "--format=%(refname)", "refs/exps").split() if "probe" in line
    ]
    params = git(experiments, "show", f"{name}:params.yaml")
    assert YAML(typ="safe").load(params)["train"]["lr"] == 1e-5
    lock = YAML(typ="safe").load(git(experiments, "show", f"{name}:dvc.lock"))
    assert lock["stages"]["train"]["params"]["params.yaml"]["train"]["lr"] == 1e-5
    rates = [
        float(row["lr"])
        for row in csv.DictReader(git(experiments, "show", f"{name}:metrics/curves/train.csv").splitlines())
    ]
    assert max(rates) == 1e-5


def test_a_data_file_may_have_any_name(workplace):
    name = 'bob\'s $HOME & `id`;touch x (1) "b" | c > d*é.json'
    (workplace / "data/smoke.json").rename(workplace / "data" / name)
    yaml, path = YAML(), workplace / "params.yaml"
    params = yaml.load(path.read_text(encoding="utf-8"))
    params["split"]["data"] = f"data/{name}"
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    before = {one for one in workplace.rglob("*") if one.is_file() and ".dvc" not in one.parts}
    done = run("dvc", "repro", "--single-item", "split", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "Running stage 'split'" in done.stdout
    assert not git(workplace, "diff", "--name-only", "metrics")
    made = {one for one in workplace.rglob("*") if one.is_file() and ".dvc" not in one.parts} - before
    assert [one for one in made if "__pycache__" not in one.parts] == []


# Mistakes of the user's, as a stage script meets them.

PATHS = {
    "split.py": ["data/split", "metrics/split.json"],
    "augment.py": ["data/split", "data/augmented", "metrics/augment.json"],
    "train.py": ["data/augmented", "models/sft", "metrics/train.json", "metrics/curves"],
    "baseline.py": ["data/split/train.json", "data/split/test.json", "data/baselines"],
    "generate.py": ["data/split/test.json", "models/sft/best", "data/responses.json"],
    "evaluate.py": [
        "data/human-scores.csv",
        "data/judgements.json",
        "metrics",
        "base=data/baselines/base.json",
        "sft=data/responses.json",
    ],
    "plot.py": ["metrics/report/index.html"],
}


@pytest.fixture
def bare(tmp_path, hermetic):
    """Settings and table, but no data and no results."""
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "backbones.yaml", tmp_path / "models")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("smollm2-135m", "gpt2-tiny-random"), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("script", "old", "new", "message"),
    [
        (
            "split.py",
            "strategy: grouped",
            "strategy: groupd",
            "split.strategy must be one of grouped, positional, shuffled",
        ),
        ("train.py", "lr: 2.0e-4", "lr_peak: 2.0e-4", "train.lr_peak is not a setting"),
        ("generate.py", "temperature: 0.0", "temperature: -1", "generate.temperature must be from 0 to 10, is -1.0"),
        (
            "evaluate.py",
            "resamples: 10000",
            "resamples: many",
            "evaluate.resamples must be a whole number, is the text",
        ),
        (
            "plot.py",
            "examples: 10",
            "examples: 10\n  exmples: 3",
            "plot.exmples is not a setting; did you mean examples?",
        ),
    ],
)
def test_wrong_parameter_of_a_stage_is_one_line_and_status_1(bare, script, old, new, message):
    text = (bare / "params.yaml").read_text(encoding="utf-8")
    assert old in text
    (bare / "params.yaml").write_text(text.replace(old, new), encoding="utf-8")
    before = content_of(bare)
    done = warm.python(str(ROOT / "src" / script), *PATHS[script], cwd=bare)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)  # what the stage does
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{script}: params.yaml: {message}")
    assert content_of(bare) == before


@pytest.mark.parametrize("script", PATHS)
def test_missing_input_of_a_stage_is_one_line_that_names_the_file(bare, script):
    before = content_of(bare)
    done = warm.python(str(ROOT / "src" / script), *PATHS[script], cwd=bare)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.match(
        rf"{re.escape(script)}: (data|metrics)/\S+\.(json|csv): there is no such file; check the path", line
    )
    assert content_of(bare) == before


@pytest.mark.parametrize("extra", [["one"], ["1", "2", "3"]])
def test_wrong_number_of_paths_shows_the_usage(bare, extra):
    done = warm.python(str(ROOT / "src" / "split.py"), *extra, cwd=bare)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: python src/split.py SPLIT METRICS\n"


def test_smoke_into_a_folder_that_is_not_empty_is_refused(project, before_smoke, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InstructError, match="is not empty; give a new folder"):
        run_smoke(project, keep=tmp_path)
    assert content_of(tmp_path) == {"mine": b"x"}


def test_smoke_outside_of_git_says_so(bare, tmp_path_factory):
    with pytest.raises(InstructError, match=r"Git cannot list its files .*run this in a clone"):
        run_smoke(bare, keep=tmp_path_factory.mktemp("none"))


def test_smoke_with_wrong_parameters_names_them_before_anything_is_copied(bare, tmp_path_factory):
    text = (bare / "params.yaml").read_text(encoding="utf-8")
    (bare / "params.yaml").write_text(text.replace("  epochs:", "  epoch:"), encoding="utf-8")
    keep = tmp_path_factory.mktemp("none")
    with pytest.raises(InstructError, match=r"train\.epoch is not a setting; did you mean epochs\?"):
        run_smoke(bare, keep=keep)
    assert content_of(keep) == {}

"""The table of the named experiments: each against its own baseline, corrected for how many there are."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from results.sample import write_results
from ruamel.yaml import YAML
from small_pipeline import commit_all, git
from typer.testing import CliRunner

from instruct.cli import app
from instruct.comparing.recipes import compare_recipes
from instruct.core.errors import InstructError
from instruct.statistics import paired_test, smallest_detectable
from instruct.tools.recipes import Recipe, choose, other_seeds, read_recipes
from instruct.tools.results import result_lines

ROOT = Path(__file__).parents[2]
COUNT = 120
RNG = np.random.default_rng(5)
BASE = RNG.uniform(30, 60, COUNT)
NOISE = RNG.normal(0, 8, COUNT)


SEED = Recipe(name="seed-124", group="default", about="another order", set={"train.seed": 124})


def recipe(name, **settings):
    return Recipe(name=name, group="default", about="a test", set=settings or {"train.lr": 0.001})


def table_of(folder, recipes):
    return result_lines(folder, recipes, {"seed-124": SEED})


def write_run(folder: Path, name, sft, *, template="alpaca", loss=1.5, seed=123, sha256="a" * 64, right=None):
    """What a run leaves in Git: its results and scores, and a curve; `right` is whether closed questions were."""
    scores = {"base": [10.0] * COUNT, "sft": np.round(sft, 4).tolist()}
    test = {"template": template, "template_sha256": template, "sha256": sha256}
    if right is not None:
        graded = {"base": [None if one is None else 0.0 for one in right], "sft": right}
    accuracy = {} if right is None else {"accuracy": graded}
    write_results(folder, {"reference": scores, "similarity": scores, **accuracy}, test=test)
    (folder / "metrics/curves").mkdir(parents=True, exist_ok=True)
    (folder / "metrics/curves/val.csv").write_text(f"step,loss\n0,3.0\n5,{loss}\n9,2.0\n")
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["prompt"]["template"], values["train"]["seed"] = template, seed
    text = json.dumps(values)
    (folder / "params.yaml").write_text(f"{text}  # {name}\n", encoding="utf-8")
    commit_all(folder)


@pytest.fixture
def runs(tmp_path, hermetic):
    """A repository with a default run, and a function that adds an experiment as DVC does."""
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    write_run(tmp_path, "default", BASE)
    first = git(tmp_path, "rev-parse", "HEAD").strip()

    def add(name, sft, head=first, **options):
        git(tmp_path, "switch", "--quiet", "--detach", head)
        write_run(tmp_path, name, sft, **options)
        git(tmp_path, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", "HEAD")
        git(tmp_path, "switch", "--quiet", "main")

    add.folder = tmp_path
    return add


def rows_of(lines):
    return {cells[0]: cells for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def test_each_row_says_by_how_much_and_whether_it_may_be_believed(runs):
    runs("good", BASE + 10 + NOISE, loss=1.25)
    runs("bad", BASE - 10 + NOISE)
    runs("same", BASE + NOISE - NOISE.mean())
    lines = table_of(runs.folder, [recipe("good"), recipe("bad"), recipe("same"), recipe("never")])
    rows = rows_of(lines)
    assert rows["the default"][2:5] == ["1", "1.500", f"{BASE.round(4).mean():.1f}"]
    assert rows["good"][1:5] == ["train.lr=0.001", "1", "1.250", f"{(BASE + 10 + NOISE).mean():.1f}"]
    assert rows["good"][5].startswith(f"{(10 + NOISE.mean()):+.1f} (")
    assert [rows[name][6] for name in ("good", "bad")] == [
        "higher (these models differ)",
        "lower (these models differ)",
    ]
    assert rows["same"][6].startswith("not distinguishable (smallest detectable: ")
    assert rows["never"][6] == "not run"
    assert any("after correction for 3 comparisons" in line for line in lines)
    assert "the default has one seed" in lines[-1]
    # The smallest difference is that of a test that shares its 5 % among the three.
    changes = (BASE + NOISE - NOISE.mean()).round(4) - BASE.round(4)
    smallest = smallest_detectable(changes.tolist(), alpha=0.05 / 3)
    assert rows["same"][6] == f"not distinguishable (smallest detectable: {smallest:.1f})"


def test_a_difference_that_would_pass_alone_does_not_among_many(runs):
    # Two standard errors or so: p is between 5 % divided by ten and 5 %.
    runs("lucky", BASE + NOISE - NOISE.mean() + 2.4 * NOISE.std() / np.sqrt(COUNT))
    assert rows_of(table_of(runs.folder, [recipe("lucky")]))["lucky"][6] == "higher (these models differ)"
    others = [recipe(f"other{i}") for i in range(9)]
    for one in others:
        runs(one.name, BASE + NOISE - NOISE.mean())
    lines = table_of(runs.folder, [recipe("lucky"), *others])
    assert rows_of(lines)["lucky"][6].startswith("not distinguishable")


def test_another_test_set_is_marked_and_another_template_is_not(runs):
    """A template is part of the recipe: similarity is of the answer and the reference alone."""
    runs("phi3", BASE + 10 + NOISE, template="phi3")
    runs("other", BASE + NOISE, sha256="f" * 64)
    lines = table_of(runs.folder, [recipe("phi3"), recipe("other")])
    rows = rows_of(lines)
    assert (rows["phi3"][6], rows["other †"][6]) == ("higher (these models differ)", "not comparable")
    assert [line for line in lines if "after correction for 1 comparison " in line]  # it counts for none
    assert [line for line in lines if line.startswith("† other: differs in the test set: ")]


def test_two_seeds_of_a_recipe_against_two_of_the_default_speak_of_the_recipe(runs):
    shift = RNG.normal(0, 8, (3, COUNT))
    runs("seed-124", BASE + shift[0] - shift[0].mean(), seed=124)
    runs("good", BASE + 20 + shift[1] - shift[1].mean())
    runs("good-seed-124", BASE + 20 + shift[2] - shift[2].mean(), seed=124)
    runs("alone", BASE + 20 + NOISE - NOISE.mean())
    lines = table_of(runs.folder, [SEED, recipe("good"), recipe("alone")])
    rows = rows_of(lines)
    assert [rows[name][2] for name in ("the default", "seed-124", "good", "alone")] == ["2", "1", "2", "1"]
    assert (rows["good"][6], rows["alone"][6]) == ("better", "higher (these models differ)")
    assert rows["good"][4] == f"{BASE.mean() + 20:.1f}"
    assert "by the spread between 2 seeds of the default" in lines[-1]


def answered(share, *, seed):
    """Right or wrong on the closed questions, two records of three, by how hard each is; None on the open ones."""
    hard = np.random.default_rng(9).permutation(COUNT) / COUNT + np.random.default_rng(seed).normal(0, 0.01, COUNT)
    return [None if i % 3 == 0 else 100.0 * (hard[i] < share) for i in range(COUNT)]


def test_all_recipes_with_two_seeds_are_ranked_by_right_answers(runs):
    """As `recipe --all --table` calls it. Similarity, which says the contrary here, decides nothing."""
    known = read_recipes()
    two = [one for one in known.values() if one.group == "default" and one.seeds == 2][:3]
    shares = dict(zip([one.name for one in two], (0.8, 0.05, 0.35), strict=True))
    (other,) = [name for seed, name in other_seeds(known).items() if seed == 124]
    write_run(runs.folder, "default", BASE, right=answered(0.35, seed=1))
    head = git(runs.folder, "rev-parse", "HEAD").strip()
    sides = {"the default": [answered(0.35, seed=1), answered(0.35, seed=5)]}
    runs(other, BASE, seed=124, right=sides["the default"][1], head=head)
    for place, (name, share) in enumerate(shares.items()):
        sides[name] = [answered(share, seed=10 * place + k) for k in (3, 4)]
        for seed, label, right in zip((123, 124), (name, f"{name}-seed-124"), sides[name], strict=True):
            runs(label, BASE - 20 * share, seed=seed, right=right, head=head)
    lines = result_lines(runs.folder, choose(known, [], "default"), known)
    rows = rows_of(lines)
    closed = {name: np.array([[x for x in run if x is not None] for run in side]) for name, side in sides.items()}
    for name, table in closed.items():
        assert rows[name][2] == "2" and rows[name][4] == f"{table.mean():.1f}"
    for name in shares:
        interval, _ = compare_recipes(closed["the default"], closed[name], None)
        models = paired_test(*(closed[side].mean(axis=0) for side in ("the default", name)), resamples=10_000, seed=123)
        low, high = min(interval.low, models.difference.low), max(interval.high, models.difference.high)
        said = [float(number) for number in re.findall(r"[-+][0-9.]+", rows[name][5])]
        assert said == pytest.approx([interval.mean, low, high], abs=1)  # records in another order draw other resamples
    verdicts = [rows[name][6] for name in shares]
    assert verdicts[:2] == ["better", "worse"] and verdicts[2].startswith("not distinguishable")
    assert rows[other][2] == "1"  # the other seed of the default is not another recipe
    not_run = [one.name for one in known.values() if one.group == "default" and one.name not in (*shares, other)]
    assert not_run and all(rows[name][6] == "not run" for name in not_run)
    assert any(line.startswith("Score: accuracy, mean over") for line in lines)
    assert any("for 4 comparisons (Holm" in line for line in lines)


def test_seeds_from_another_commit_do_not_count(runs):
    runs("good", BASE + 20 + NOISE)
    runs("good-seed-124", BASE + 20 - NOISE, seed=124)
    folder = runs.folder
    assert rows_of(table_of(folder, [recipe("good")]))["good"][2] == "1"  # the default has no such seed
    write_run(folder, "later", BASE + 1)
    later = git(folder, "rev-parse", "HEAD").strip()
    write_run(folder, "seed", BASE + 2, seed=124)
    git(folder, "update-ref", f"refs/exps/{later[:2]}/{later[2:]}/seed-124", "HEAD")
    assert rows_of(table_of(folder, [recipe("good")]))["good"][2] == "1"


def test_experiment_without_metrics_says_so_and_invents_nothing(runs):
    runs("good", BASE + 10 + NOISE)
    runs("broken", BASE)
    folder = runs.folder
    (ref,) = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/broken").split()
    git(folder, "switch", "--quiet", "--detach", ref)
    git(folder, "rm", "--quiet", "metrics/scores.csv")
    commit_all(folder)
    git(folder, "update-ref", ref, "HEAD")
    git(folder, "switch", "--quiet", "main")
    row = rows_of(table_of(folder, [recipe("good"), recipe("broken")]))["broken"]
    assert row[2:6] == ["", "", "", ""]
    assert "metrics/scores.csv" in row[6]


def test_no_text_breaks_the_table(runs):
    """As in the other reports, whose renderer makes it: what comes from a file is not read as markup."""
    runs("good", BASE + 10 + NOISE)
    lines = table_of(runs.folder, [recipe("good", **{"prompt.system": "a | *b* <b>"}), recipe("never")])
    table = [re.split(r"(?<!\\)\|", line) for line in lines[: lines.index("")]]
    assert {len(cells) for cells in table} == {9} and len(table) == 5
    assert table[3][2].strip() == r"prompt.system=a \| \*b\* &lt;b>"


def test_the_page_of_all_runs_shows_the_same_table(runs, monkeypatch):
    runs("two-epochs", BASE + 10 + NOISE)
    runs("no-recipe", BASE)
    monkeypatch.chdir(runs.folder)
    done = CliRunner().invoke(app, ["view", "--no-open", "-o", "view.html"])
    assert done.exit_code == 0, done.output
    section = re.search(r'<section id="recipes".*?</section>', Path("view.html").read_text(), re.DOTALL)[0]
    shown = [
        [html.unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
    ]
    lines = result_lines(runs.folder, choose(read_recipes(), ["two-epochs"], None), read_recipes())
    printed = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    assert shown == [printed[0], *printed[2:]] and shown[2][0] == "two-epochs"
    assert [html.unescape(note) for note in re.findall('<p class="soft">(.*?)</p>', section)] == [
        line for line in lines[lines.index("") :] if line
    ]


def test_a_page_without_named_experiments_says_nothing_of_them(runs, monkeypatch):
    monkeypatch.chdir(runs.folder)
    done = CliRunner().invoke(app, ["view", "--no-open", "-o", "view.html"])
    assert done.exit_code == 0 and "recipes" not in Path("view.html").read_text()


def test_nothing_run_is_one_line(runs):
    with pytest.raises(InstructError, match=r"no recipe has a result \(none has been run\); `make experiments` runs"):
        table_of(runs.folder, [recipe("good")])

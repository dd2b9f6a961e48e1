"""The named experiments: each is valid settings, runs in a copy of its own, and is found again by name."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from small_pipeline import git, nested, run

from instruct.backbones.catalog import read_table
from instruct.core.errors import InstructError, ParamsError
from instruct.tools.check import check_params
from instruct.tools.import_data import read_sources
from instruct.tools.recipes import (
    GROUPS,
    Recipe,
    choose,
    command_line,
    dvc_arguments,
    find_experiments,
    read_recipes,
    run_recipes,
    spell,
    with_seeds,
)
from instruct.tools.smoke import overlay

ROOT = Path(__file__).parents[2]
RECIPES = read_recipes()
pytestmark = pytest.mark.usefixtures("warm_start")
DEFAULTS = YAML(typ="safe").load(ROOT / "params.yaml")


def recipe(name="probe", **settings):
    return Recipe(name=name, group="default", about="a test", set=settings or {"train.lr": 0.001})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_changes_known_settings_to_valid_values(name, tmp_path):
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    overlay(values, nested(RECIPES[name].set))
    with (tmp_path / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(values, file)
    assert check_params(tmp_path / "params.yaml")[1] == []
    assert values != DEFAULTS
    for key in RECIPES[name].set:
        place = DEFAULTS
        for part in key.split("."):
            place = place[part]


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_needs_first_is_a_command_that_is_there(name):
    needs = RECIPES[name].needs.split()
    assert (RECIPES[name].group == "larger") == bool(needs)
    if needs:
        program, command, what = needs
        known = {
            "fetch": read_table(ROOT / "models/backbones.yaml"),
            "import-data": read_sources(ROOT / "data/sources.yaml"),
        }
        assert program == "instruct"
        assert what in known[command]


def test_the_ablations_of_the_seeds_are_among_them():
    changed = {key for one in RECIPES.values() for key in one.set}
    assert changed >= {
        "train.prompt_loss_weight",
        "prompt.template",
        "train.lora.r",
        "train.lr",
        "train.epochs",
        "model.backbone",
        "split.data",
        "train.seed",
    }


def test_the_recipes_that_matter_are_run_with_two_seeds_and_so_is_the_default():
    experiments = with_seeds(RECIPES, choose(RECIPES, [], "default"))
    names = [one.name for one in experiments]
    for name in ("unmasked-loss", "phi3-template", "lora", "two-epochs", "lr-5e-5", "lr-4e-4"):
        assert names.index(f"{name}-seed-124") == names.index(name) + 1
    assert "seed-124" in names and len(set(names)) == len(names)
    for one in experiments:
        if one.name.endswith("-seed-124"):
            first = RECIPES[one.name.removesuffix("-seed-124")]
            assert one.set == {**first.set, "train.seed": 124} and one.seeds == 1


def test_one_word_runs_each_preference_recipe_with_two_seeds_and_not_those_that_need_a_download():
    experiments = with_seeds(RECIPES, choose(RECIPES, ["preference"], None))
    names = ["dpo-on-policy", "dpo-lora", "ipo"]
    assert [one.name for one in experiments] == [f"{name}{seed}" for name in names for seed in ("", "-seed-124")]
    for first, second in zip(experiments[::2], experiments[1::2], strict=True):
        assert second.set == {**first.set, "train.seed": 124} and first.set["prefer.methods"] == ["dpo"]


def test_a_name_means_a_recipe_or_a_group_and_never_both():
    assert not set(GROUPS) & set(RECIPES) and {one.group for one in RECIPES.values()} == set(GROUPS)


def test_more_seeds_than_the_default_has_are_refused():
    wanted = replace(recipe(), seeds=5)
    with pytest.raises(ParamsError, match=r"recipes.yaml: probe: has 5 seeds, the default 3"):
        with_seeds(RECIPES, [wanted])
    with pytest.raises(ParamsError, match="seeds must be from 1 to 10"):
        replace(recipe(), seeds=0)


def test_no_two_recipes_are_the_same_experiment():
    assert len({one.changes for one in RECIPES.values()}) == len(RECIPES)


@pytest.mark.parametrize(
    ("value", "text"), [(0.00005, "5e-05"), (16, "16"), (True, "true"), ("phi3", "phi3"), (1.0, "1.0")]
)
def test_a_value_is_spelled_so_that_params_yaml_reads_it_back(value, text):
    assert spell(value) == text
    read = YAML(typ="safe", pure=True).load(f"x: {text}")["x"]
    assert (read, type(read)) == (value, type(value))


def test_command_line_is_what_runs():
    one = recipe(**{"train.lr": 0.00005, "prompt.template": "phi3"})
    assert command_line(one, queue=True) == "dvc exp run --queue -n probe -S train.lr=5e-05 -S prompt.template=phi3"
    assert shlex.split(command_line(one, queue=False)) == ["dvc", *dvc_arguments(one, queue=False)]
    assert "--temp" in dvc_arguments(one, queue=False)


def test_choice_is_by_name_and_by_group_in_the_order_of_the_file():
    names = [one.name for one in choose(RECIPES, ["gpt2-124m", "lora"], None)]
    assert names == ["lora", "gpt2-124m"]
    default = choose(RECIPES, ["lora"], "default")
    assert [one.name for one in default] == [name for name, one in RECIPES.items() if one.group == "default"]
    preference = [one.name for one in choose(RECIPES, ["preference", "ipo", "dpo-book"], None)]
    assert preference == ["dpo-on-policy", "dpo-lora", "ipo", "dpo-book"]
    with pytest.raises(ParamsError, match='there is no recipe "lorra"; did you mean lora'):
        choose(RECIPES, ["lorra"], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must map the names"),
        ("a: [", "YAML"),
        ("a: {about: x, set: {b: 1}}", "group is missing"),
        ("a: {about: x, group: default, set: {}}", "set must be at least one setting"),
        ("a: {about: x, group: default, set: {b: [1]}}", r"set\.b must be a number, a text, true or false"),
        ("a: {about: x, group: default, sets: {b: 1}}", "did you mean set"),
    ],
)
def test_wrong_recipe_is_one_line_that_names_it(tmp_path, text, message):
    (tmp_path / "recipes.yaml").write_text(text)
    with pytest.raises(InstructError, match=message):
        read_recipes(tmp_path / "recipes.yaml")


def test_recipe_runs_in_a_copy_and_not_twice(workplace, capfd):
    one = recipe(**{"plot.examples": 5})
    assert run_recipes(workplace, [one], queue=False) == ["probe: done"]
    found = find_experiments(workplace)["probe"]
    assert found.baseline == git(workplace, "rev-parse", "HEAD").strip()
    assert "examples: 5" in git(workplace, "show", f"{found.commit}:params.yaml")
    assert not git(workplace, "status", "--porcelain")
    assert run_recipes(workplace, [one], queue=False) == ["probe: has been run; `dvc exp remove probe` forgets it"]


def test_recipe_starts_from_a_commit_only(workplace):
    with (workplace / "params.yaml").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(InstructError, match=r"params\.yaml: is changed but not committed.*commit first"):
        run_recipes(workplace, [recipe()], queue=True)


def test_recipe_that_dvc_refuses_is_named(workplace, capfd):
    with pytest.raises(InstructError, match="probe: DVC failed; its own message is above"):
        run_recipes(workplace, [recipe(**{"train.lrr": 1})], queue=True)


def test_queued_recipe_waits_once(workplace, capfd):
    assert run_recipes(workplace, [recipe()], queue=True) == ["probe: queued"]
    (line,) = run_recipes(workplace, [recipe()], queue=True)
    assert line.startswith("probe: is queued; ")
    assert len(git(workplace, "log", "-g", "--format=%gs", "refs/exps/celery/stash").splitlines()) == 1
    git(workplace, "commit", "--quiet", "--allow-empty", "--message", "another start")
    assert run_recipes(workplace, [recipe()], queue=True) == ["probe: queued"]
    assert "probe" in run("dvc", "queue", "status", cwd=workplace).stdout
    assert find_experiments(workplace) == {}

"""The named experiments of recipes.yaml: listed, run as DVC experiments, and found again by name."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from instruct.core.errors import InstructError, ParamsError
from instruct.core.git import Experiment, call_git, list_experiments
from instruct.core.params import did_you_mean, load_entries, require
from instruct.core.parsing import flatten, mapping, read_yaml
from instruct.tools.own_data import own_data, untracked
from instruct.tools.programs import ask_dvc, git_names, run_dvc, run_git

RECIPES = Path(__file__).with_name("recipes.yaml")
SEED = "train.seed"
QUEUE = "refs/exps/celery/stash"  # where DVC keeps what it has not begun
Setting = str | int | float | bool | list[str]
Group = Literal["default", "preference", "larger"]
GROUPS: tuple[str, ...] = get_args(Group)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named experiment: dotted keys of params.yaml and their values; `needs` is the command that must come first.

    It runs with this many `seeds`: a verdict on a recipe takes two, and two of the default.
    """

    name: str
    group: Group
    about: str
    set: dict[str, Setting]
    needs: str = ""
    seeds: int = 1

    def __post_init__(self) -> None:
        require("seeds", self.seeds, 1 <= self.seeds <= 10, "from 1 to 10")
        require("set", "empty", bool(self.set), "at least one setting")
        for key, value in self.set.items():
            require(f"set.{key}", value, _is_setting(value), "a number, a text, true or false, or a list of texts")

    @property
    def changes(self) -> str:
        """The settings in one line, as a reader of a table wants them."""
        return ", ".join(f"{key}={spell(value)}" for key, value in self.set.items())


def read_recipes(path: Path = RECIPES) -> dict[str, Recipe]:
    """All recipes by name, in the file's order; raises ParamsError if the file is invalid."""
    return load_entries(Recipe, path)


def other_seeds(recipes: Mapping[str, Recipe]) -> dict[int, str]:
    """The seeds that the default is run with besides its own, each with the name of that recipe."""
    return {
        value: one.name
        for one in recipes.values()
        if set(one.set) == {SEED} and isinstance(value := one.set[SEED], int)
    }


def with_seeds(recipes: Mapping[str, Recipe], chosen: Sequence[Recipe]) -> list[Recipe]:
    """The experiments of the chosen recipes: each with its own seed, then again with as many others as it wants.

    Raises ParamsError if it has more seeds than the default.
    """
    known, made = list(other_seeds(recipes)), []
    for recipe in chosen:
        if recipe.seeds - 1 > len(known):
            raise ParamsError(f"{RECIPES.name}: {recipe.name}: has {recipe.seeds} seeds, the default {1 + len(known)}")
        made.append(recipe)
        made += [at_seed(recipe, seed) for seed in known[: recipe.seeds - 1]]
    return made


def at_seed(recipe: Recipe, seed: int) -> Recipe:
    """The same recipe with another seed, as a separate experiment."""
    return replace(recipe, name=f"{recipe.name}-seed-{seed}", set={**recipe.set, SEED: seed}, seeds=1)


def choose(recipes: Mapping[str, Recipe], names: Sequence[str], group: str | None) -> list[Recipe]:
    """The recipes with these names, in groups with these names and of this group, each once.

    Raises ParamsError for a name that neither a recipe nor a group has.
    """
    for name in names:
        if name not in recipes and name not in GROUPS:
            raise ParamsError(f'there is no recipe "{name}"{did_you_mean(name, [*recipes, *GROUPS])}')
    wanted = {*names, group}
    return [recipe for recipe in recipes.values() if recipe.name in wanted or recipe.group in wanted]


def _is_setting(value: Any) -> bool:
    texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return texts or isinstance(value, str | int | float | bool)


def spell(value: Setting) -> str:
    """A value as `dvc exp run -S` reads it back with the same type."""
    if isinstance(value, list):
        return f"[{','.join(value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else value


def dvc_arguments(recipe: Recipe, *, queue: bool) -> list[str]:
    """The arguments of `dvc`. The experiment runs in its own copy, so that it does not inherit other settings."""
    settings = [part for key, value in recipe.set.items() for part in ("-S", f"{key}={spell(value)}")]
    return ["exp", "run", "--queue" if queue else "--temp", "-n", recipe.name, *settings]


def command_line(recipe: Recipe, *, queue: bool) -> str:
    """The same as a line of shell."""
    return shlex.join(["dvc", *dvc_arguments(recipe, queue=queue)])


def find_experiments(root: Path) -> dict[str, Experiment]:
    """The finished experiments by name; of several with one name the newest."""
    return {one.name: one for one in reversed(list_experiments(root))}


def waiting(root: Path, head: str) -> set[str]:
    """The names of the experiments that DVC's queue has to run on this commit, or is running on any."""
    log = call_git(root, "log", "--walk-reflogs", "--format=%gs", QUEUE).stdout.decode("utf-8", "replace")
    queued = re.findall(rf"^commit: dvc-exp:\w+:{head}:(\S+)$", log, re.MULTILINE)
    rows = (line.split() for line in ask_dvc(root, "queue", "status").stdout.splitlines())
    return {*queued, *(row[1] for row in rows if len(row) > 2 and row[-1] == "Running")}


def run_recipes(root: Path, recipes: Sequence[Recipe], *, queue: bool) -> list[str]:
    """Run or queue each recipe that is neither queued nor run on the current commit; returns what was done, in lines.

    Raises InstructError where files are not committed, since an experiment starts from the commit, or DVC fails.
    """
    if changed := git_names(root, "status", "--porcelain", "--untracked-files=no", "-z"):
        raise InstructError(
            f"{changed[0][3:]}: is changed but not committed, and an experiment starts from the commit; commit first"
        )
    pipeline, params = (read_yaml(root / name) for name in ("dvc.yaml", "params.yaml"))
    head, done = run_git(root, "rev-parse", "HEAD").strip(), find_experiments(root)
    queued = waiting(root, head)
    lines = []
    for recipe in recipes:
        if recipe.name in done and done[recipe.name].baseline == head:
            lines.append(f"{recipe.name}: has been run; `dvc exp remove {recipe.name}` forgets it")
            continue
        if recipe.name in queued:
            forget = f"`dvc queue remove {recipe.name}` forgets it"
            lines.append(f"{recipe.name}: is queued; `dvc exp run --run-all` runs it, {forget}")
            continue
        if missing := untracked(root, own_data(pipeline, flatten(mapping(params)) | recipe.set)):
            first = f"; first `{recipe.needs}`" if recipe.needs else ""
            raise InstructError("\n".join(f"{recipe.name}: {line}{first}" for line in missing))
        if run_dvc(root, *dvc_arguments(recipe, queue=queue)):
            raise InstructError(f"{recipe.name}: DVC failed; its own message is above")
        lines.append(f"{recipe.name}: {'queued' if queue else 'done'}")
    return lines


def list_lines(recipes: Mapping[str, Recipe]) -> list[str]:
    """One line for each recipe: name, what it is about, what it sets, what must come first."""
    width = max(map(len, recipes))
    lines = []
    for recipe in recipes.values():
        needs = f"; first `{recipe.needs}`" if recipe.needs else ""
        seeds = f"; {recipe.seeds} seeds" if recipe.seeds > 1 else ""
        lines.append(f"{recipe.name:{width}}  {recipe.about} ({recipe.changes}{seeds}{needs})")
    return lines

"""The results of the named experiments as one table: each compared with the commit it started from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instruct.comparing.compare import choose_scores, prepare
from instruct.comparing.recorded import rate_of_seeds_alone
from instruct.comparing.scores import PairedScores, ScoreChange, change_scores
from instruct.comparing.seeds import split_variance
from instruct.comparing.tables import verdict_cell
from instruct.core.errors import InstructError
from instruct.core.git import Experiment
from instruct.report import markdown
from instruct.report.tables import Row, Table, interval, number
from instruct.results.runs import Run, read_run
from instruct.tools.recipes import Recipe, at_seed, find_experiments, other_seeds, read_recipes

HEAD = ("experiment", "changes", "seeds", "validation loss", "score", "difference, 95 % interval", "verdict")
NOT_RUN, SIGNED = "not run", "{:+.1f}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A recipe's runs against those of its baseline with the same seeds; `caveats` are why they are not comparable."""

    recipe: Recipe
    runs: tuple[Run, ...]
    default: tuple[Run, ...]
    pair: PairedScores
    caveats: tuple[str, ...]
    change: ScoreChange | None = None


def result_lines(root: Path, recipes: Sequence[Recipe], known: Mapping[str, Recipe]) -> list[str]:
    """The table of `result_table` and its notes as lines of Markdown."""
    table, notes = result_table(root, recipes, known)
    return [*markdown.table(table).split("\n"), *(line for note in notes for line in ("", note))]


def finished_table(root: Path) -> tuple[Table, list[str]] | None:
    """The table of all named experiments that have a result; None if there are none."""
    known, done = read_recipes(), find_experiments(root)
    try:
        return result_table(root, [one for one in known.values() if one.name in done], known)
    except InstructError:
        return None


def result_table(root: Path, recipes: Sequence[Recipe], known: Mapping[str, Recipe]) -> tuple[Table, list[str]]:
    """The table, and notes below it; a recipe without a result says why.

    `known` are all recipes, by which the runs of the default with other seeds are found. Raises InstructError where no
    recipe has a result.
    """
    experiments, seeds = find_experiments(root), other_seeds(known)
    found = {recipe.name: _look(root, recipe, experiments, seeds) for recipe in recipes}
    results = correct([result for result in found.values() if isinstance(result, Result)])
    if not results:
        reason = next((problem for problem in found.values() if problem != NOT_RUN), "none has been run")
        raise InstructError(f"no recipe has a result ({reason}); `make experiments` runs those of the default backbone")
    by_name = {result.recipe.name: result for result in results}
    rows: list[Row] = [_default_row(results)]
    for recipe in recipes:
        if result := by_name.get(recipe.name):
            rows.append(_result_row(result))
        else:
            rows.append([recipe.name, recipe.changes, "", "", "", "", str(found[recipe.name])])
    table = Table(name="Named experiments", head=HEAD, rows=rows)
    return table, _notes(results, _runs_of_default(root, results, experiments, seeds))


def _look(root: Path, recipe: Recipe, experiments: Mapping[str, Experiment], seeds: Mapping[int, str]) -> Result | str:
    """The result of a recipe, or the reason why it is missing."""
    experiment = experiments.get(recipe.name)
    if experiment is None:
        return NOT_RUN
    try:
        default = [replace(read_run(experiment.baseline, root), name="the default")]
        runs = [replace(read_run(experiment.commit, root), name=recipe.name)]
        for seed, name in seeds.items():
            pair = [experiments.get(one) for one in (name, at_seed(recipe, seed).name)]
            if all(one and one.baseline == experiment.baseline for one in pair):
                default.append(read_run(pair[0].commit, root))  # type: ignore[union-attr]
                runs.append(read_run(pair[1].commit, root))  # type: ignore[union-attr]
        (name, *_), _ = choose_scores((*default, *runs), [])
        prepared = prepare(default, runs, chosen=[name], anyway=True)
    except InstructError as error:
        return str(error).splitlines()[0]
    return Result(
        recipe=recipe,
        runs=tuple(runs),
        default=tuple(default),
        pair=prepared.pairs[0],
        caveats=tuple(prepared.changes),
    )


def correct(results: Sequence[Result]) -> list[Result]:
    """The results with what their tests say, p-values and smallest detectable differences for how many there are.

    Every comparable row is one more chance to be wrong; one that is not comparable gets no verdict and counts for none.
    """
    comparable = [result for result in results if not result.caveats]
    changes = dict(zip(map(id, comparable), change_scores([one.pair for one in comparable]), strict=True))
    return [
        replace(result, change=changes[id(result)] if id(result) in changes else change_scores([result.pair])[0])
        for result in results
    ]


def _runs_of_default(
    root: Path, results: Sequence[Result], experiments: Mapping[str, Experiment], seeds: Mapping[int, str]
) -> list[Run]:
    """The runs of the default with every seed, where all rows have one commit for their baseline."""
    starts = {experiments[result.recipe.name].baseline for result in results}
    found = [experiments[name] for name in seeds.values() if name in experiments]
    own = [read_run(one.commit, root) for one in found if {one.baseline} == starts]
    return [results[0].default[0], *own] if len(starts) == 1 else []


def _default_row(results: Sequence[Result]) -> Row:
    most = max(results, key=lambda result: len(result.default))
    scores = {number(_change(result).a) for result in results if len(result.default) == len(most.default)}
    losses = {_loss(result.default) for result in results if len(result.default) == len(most.default)}
    seeds = str(len(most.default))
    return ["the default", "", seeds, " / ".join(sorted(losses)), " / ".join(sorted(scores)), "", ""]


def _change(result: Result) -> ScoreChange:
    assert result.change is not None
    return result.change


def _result_row(result: Result) -> Row:
    score, change = _change(result), _change(result).difference
    mark = " †" if result.caveats else ""
    gain = f"{number(change.mean, SIGNED)} ({interval(change.low, change.high, SIGNED)})"
    seeds = str(len(result.runs))
    cells = [result.recipe.name + mark, result.recipe.changes, seeds, _loss(result.runs), number(score.b), gain]
    return [*cells, verdict_cell(score, comparable=not result.caveats)]


def _loss(runs: Sequence[Run]) -> str:
    """The mean over the runs of each one's best validation loss."""
    best = [min(losses) for run in runs if (losses := [row["loss"] for row in run.curves.get("val", [])])]
    return f"{sum(best) / len(best):.3f}" if best else ""


def _notes(results: Sequence[Result], default: Sequence[Run]) -> list[str]:
    first, count = _change(results[0]), max(_change(result).count for result in results)
    comparable = sum(not result.caveats for result in results)
    notes = [
        f"Score: {first.name}, mean over {count} test records and all seeds of a row, paired with the default's "
        "answers with the same seeds. Verdicts and smallest detectable differences are at 5 % after correction for "
        f"{comparable} comparison{'s' * (comparable != 1)} (Holm, Bonferroni); each interval is its own row's, "
        "uncorrected, so that a verdict may say less. Losses over other tokens (template, prompt loss) compare with "
        "none.",
        "Rows of two seeds or more speak of the recipe: better, worse. Rows of one seed speak of two trained models: "
        f"higher, lower. {_seeds_alone(results, default)}",
    ]
    for result in results:
        if result.caveats:
            notes.append(f"† {result.recipe.name}: differs in {'; '.join(result.caveats)}.")
    return notes


def _seeds_alone(results: Sequence[Result], default: Sequence[Run]) -> str:
    """How often models that differ in their seed alone would be called different, by the runs of the default."""
    name = _change(results[0]).name
    error = max(_change(result).error for result in results)
    try:
        parts = split_variance(default, name) if len(default) > 1 else None
    except InstructError:
        parts = None
    if parts is None or parts.seed is None or parts.seed_most is None:
        return "How often seeds alone would be called different is not known: the default has one seed."
    rates = [100 * rate_of_seeds_alone(error, sd) for sd in (parts.seed, parts.seed_most)]
    return (
        f"Of such rows, seeds alone would be called different in {rates[0]:.0f} % before correction "
        f"({rates[1]:.0f} % at the upper limit), by the spread between {parts.seeds} seeds of the default."
    )

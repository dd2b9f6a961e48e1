"""What the named experiments gave, as a Markdown table: each against the commit that it was started from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instruct.comparing.compare import ScoreChange, compare, pair_scores
from instruct.core.errors import InstructError
from instruct.core.git import Experiment
from instruct.results.runs import Run, read_run
from instruct.statistics import ALPHA, holm, smallest_detectable
from instruct.tools.recipes import Recipe, find_experiments

HEADER = ["experiment", "changes", "validation loss", "score", "difference, 95 % interval", "verdict"]
NOT_RUN = "not run"
ALIGN = ["---", "---", "---:", "---:", "---:", "---"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A recipe's experiment against its baseline; `caveats` are why they are not quite comparable."""

    recipe: Recipe
    run: Run
    default: Run
    score: ScoreChange
    caveats: tuple[str, ...]


def result_table(root: Path, recipes: Sequence[Recipe]) -> list[str]:
    """The lines of the table, with notes below it; a recipe without a result says why.

    Raises InstructError where no recipe has a result.
    """
    experiments = find_experiments(root)
    found = {recipe.name: _look(root, recipe, experiments) for recipe in recipes}
    results = correct([result for result in found.values() if isinstance(result, Result)])
    if not results:
        reason = next((problem for problem in found.values() if problem != NOT_RUN), "none has been run")
        raise InstructError(f"no recipe has a result ({reason}); `make experiments` runs those of the default backbone")
    by_name = {result.recipe.name: result for result in results}
    lines = [_row(HEADER), _row(ALIGN), _default_row(results)]
    for recipe in recipes:
        if result := by_name.get(recipe.name):
            lines.append(_result_row(result))
        else:
            lines.append(_row([recipe.name, recipe.changes, "", "", "", str(found[recipe.name])]))
    return [*lines, "", *_notes(results)]


def _look(root: Path, recipe: Recipe, experiments: Mapping[str, Experiment]) -> Result | str:
    """The result of a recipe, or why there is none."""
    experiment = experiments.get(recipe.name)
    if experiment is None:
        return NOT_RUN
    try:
        default = replace(read_run(experiment.baseline, root), name="the default")
        run = replace(read_run(experiment.commit, root), name=recipe.name)
        comparison = compare([default], [run], chosen=[default.results.main_judge.name], anyway=True)
    except InstructError as error:
        return str(error).splitlines()[0]
    return Result(
        recipe=recipe, run=run, default=default, score=comparison.scores[0], caveats=tuple(comparison.changes)
    )


def correct(results: Sequence[Result]) -> list[Result]:
    """The results with p-values and smallest detectable differences for how many there are.

    Every comparable row is one more chance to be wrong; one that is not comparable gets no verdict and counts for none.
    """
    comparable = [result for result in results if not result.caveats]
    corrected = dict(zip(map(id, comparable), holm([result.score.p_value for result in comparable]), strict=True))
    return [
        _at_level(result, corrected[id(result)], len(comparable)) if id(result) in corrected else result
        for result in results
    ]


def _at_level(result: Result, corrected: float, family: int) -> Result:
    """The result with its p-value as corrected, and the smallest difference that its test among `family` finds."""
    pair = pair_scores([result.default], [result.run], result.score.name, list(result.default.groups))
    smallest = smallest_detectable(pair.differences.tolist(), groups=pair.groups, alpha=ALPHA / family)
    return replace(result, score=replace(result.score, corrected=corrected, smallest=smallest))


def _default_row(results: Sequence[Result]) -> str:
    scores = {f"{result.score.a:.1f}" for result in results}
    losses = {_loss(result.default) for result in results}
    return _row(["the default", "", " / ".join(sorted(losses)), " / ".join(sorted(scores)), "", ""])


def _result_row(result: Result) -> str:
    score, change = result.score, result.score.difference
    mark = " †" if result.caveats else ""
    interval = f"{change.mean:+.1f} ({change.low:+.1f} to {change.high:+.1f})"
    cells = [result.recipe.name + mark, result.recipe.changes, _loss(result.run), f"{score.b:.1f}", interval]
    return _row([*cells, "not comparable" if result.caveats else score.in_words])


def _loss(run: Run) -> str:
    losses = [row["loss"] for row in run.curves.get("val", [])]
    return f"{min(losses):.3f}" if losses else ""


def _notes(results: Sequence[Result]) -> list[str]:
    count = max(result.score.count for result in results)
    comparable = sum(not result.caveats for result in results)
    notes = [
        f"Score: {results[0].score.name}, mean over {count} test records, paired with the default's answers. Verdicts "
        f"and smallest detectable differences are at 5 % after correction for {comparable} "
        f"comparison{'s' * (comparable != 1)} (Holm, Bonferroni); each interval is its own row's, uncorrected, so that "
        "a verdict may say less. Losses over other tokens (template, prompt loss) compare with none."
    ]
    for result in results:
        if result.caveats:
            notes.append(f"† {result.recipe.name}: differs in {'; '.join(result.caveats)}.")
    return notes


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

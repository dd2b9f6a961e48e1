"""How many test records and training seeds a difference needs to be seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import pstdev

from instruct.comparing.compare import choose_scores, compare
from instruct.comparing.runs import Run, changed_params
from instruct.comparing.seeds import is_seed, split_variance
from instruct.errors import ParamsError
from instruct.statistics import ALPHA, detectable_errors

DIFFERENCES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
SEEDS = (1, 2, 3, 5, 10)
LIMIT = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviations in points, of one record's difference between two runs and of a run's mean between seeds.

    Without the latter (None) what follows speaks of trained models, not of recipes.
    """

    item: float
    seed: float | None


def records_needed(difference: float, spread: Spread, seeds: int, *, alpha: float = ALPHA) -> int | None:
    """How many records find `difference` 8 times of 10 with `seeds` runs of each recipe; None where no number does."""
    low, high = 2, LIMIT
    if smallest_with(high, spread, seeds, alpha=alpha) > difference:
        return None
    while low < high:
        middle = (low + high) // 2
        if smallest_with(middle, spread, seeds, alpha=alpha) <= difference:
            high = middle
        else:
            low = middle + 1
    return low


def smallest_with(records: int, spread: Spread, seeds: int, *, alpha: float = ALPHA) -> float:
    """The smallest difference that so many records and seeds find 8 times of 10.

    The spread between seeds is taken as known: with one run of each it could not be estimated from those runs.
    """
    of_items = spread.item**2 / (records * seeds)
    of_seeds = 2 * (spread.seed or 0.0) ** 2 / seeds
    return sqrt(of_items + of_seeds) * detectable_errors(max(records - 1.0, 1.0), alpha)


def power_table(
    spread: Spread, *, differences: Sequence[float] = DIFFERENCES, seeds: Sequence[int] = SEEDS, alpha: float = ALPHA
) -> list[list[str]]:
    """Rows of text: a header, then for each difference the records needed with each number of seeds."""
    seeds = seeds if spread.seed is not None else (1,)
    rows = [["difference", *(f"{k} seed{'s' if k > 1 else ''}" for k in seeds)]]
    for difference in differences:
        needed = [records_needed(difference, spread, k, alpha=alpha) for k in seeds]
        rows.append([f"{difference:g}", *("no number" if n is None else str(n) for n in needed)])
    return rows


def power_lines(runs: Sequence[Run], score: str, given: Spread) -> list[str]:
    """What `instruct power` prints: the spread it plans with and the table of records needed."""
    spread, lines = spread_of(runs, score) if runs else (given, [])
    lines.append(f"one record's difference between two runs has a standard deviation of {spread.item:.1f} points")
    if spread.seed is None:
        lines.append(
            "the spread between training seeds is not known: the table speaks of trained models, not of recipes"
        )
    else:
        lines.append(f"a run's mean has a standard deviation of {spread.seed:.2f} points from seed to seed")
    table = power_table(spread)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines.append("test records needed to find a difference (points) 8 times of 10, by seeds of each recipe:")
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return lines


def spread_of(runs: Sequence[Run], score: str) -> tuple[Spread, list[str]]:
    """The spread that runs show, and what is to be said of where it comes from."""
    if len(runs) < 2:
        raise ParamsError("one run shows no difference; give two runs, or several seeds of one recipe")
    name = choose_scores(runs, [score] if score else [])[0]
    if all(all(is_seed(setting) for setting in changed_params(runs[0], run)) for run in runs[1:]):
        parts = split_variance(runs, name)
        item = (2 * (parts.rest**2 + (parts.judge or 0.0) ** 2)) ** 0.5
        return Spread(item=item, seed=parts.seed), [
            f"{name}, from {len(runs)} runs of one recipe over {parts.items} records"
        ]
    if len(runs) > 2:
        raise ParamsError("more than two runs must be of one recipe (differ in train.seed alone); give two, or seeds")
    found = compare(runs[:1], runs[1:], chosen=[name], anyway=True)
    pairs = [(runs[0].scores[name][id_], runs[1].scores[name].get(id_)) for id_ in runs[0].scores[name]]
    item = pstdev([y - x for x, y in pairs if x is not None and y is not None])
    lines = [f"{name}, from {runs[0].name} and {runs[1].name} over {found.scores[0].count} records"]
    lines += [f"NOT COMPARABLE: {change}" for change in found.changes]
    smallest = found.scores[0].smallest
    if smallest is not None:
        lines.append(f"with these records the smallest detectable difference is {smallest:.1f} points")
    return Spread(item=item, seed=None), lines

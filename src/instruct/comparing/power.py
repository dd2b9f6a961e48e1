"""How many test records and training seeds a difference needs to be seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from instruct.comparing.compare import choose_scores, compare
from instruct.comparing.recipes import smallest_planned
from instruct.comparing.seeds import beyond_seeds, records_with, shared_groups, split_variance
from instruct.core.errors import DataError, ParamsError
from instruct.results.runs import Run
from instruct.results.schema import ACCURACY
from instruct.statistics import ALPHA, detectable_errors, standard_error

DIFFERENCES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
SEEDS = (2, 3, 5, 10)  # of each recipe
LIMIT = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviations in points, of one record's difference between two runs and of a run's mean between seeds.

    Without the latter (None) what follows speaks of trained models, not of recipes. `most` is its upper limit where
    runs showed it: 8 times of 10 the true one is below.
    """

    item: float
    seed: float | None
    most: float | None = None

    @property
    def planned(self) -> float | None:
        """The spread between seeds to plan with: as it was seen, and where none was seen its upper limit."""
        return self.seed or self.most if self.seed is not None else None


def records_needed(difference: float, spread: Spread, seeds: int) -> int | None:
    """How many records find `difference` 8 times of 10 with `seeds` runs of each recipe; None where no number does."""
    low, high = 2, LIMIT
    if smallest_with(high, spread, seeds) > difference:
        return None
    while low < high:
        middle = (low + high) // 2
        if smallest_with(middle, spread, seeds) <= difference:
            high = middle
        else:
            low = middle + 1
    return low


def smallest_with(records: int, spread: Spread, seeds: int) -> float:
    """The smallest difference that so many records and seeds find 8 times of 10, by the test of `instruct compare`.

    With one run of each, that test speaks of trained models, whatever the spread between seeds. With several it
    estimates that spread from those runs, and counts item by seed among the items and among the seeds.
    """
    of_items, freedom = spread.item**2 / (records * seeds), max(records - 1.0, 1.0)
    if seeds == 1:
        return sqrt(of_items) * detectable_errors(freedom, ALPHA)
    return smallest_planned(of_items, freedom, 2 * (spread.planned or 0.0) ** 2 / seeds + of_items, seeds)


def power_table(spread: Spread) -> list[list[str]]:
    """Rows of text: a header, then for each difference the records needed with each number of seeds."""
    seeds = SEEDS if spread.seed is not None else (1,)  # one run of each tells of no recipe
    rows = [["difference", *(f"{k} seed{'s' if k > 1 else ''}" for k in seeds)]]
    for difference in DIFFERENCES:
        needed = [records_needed(difference, spread, k) for k in seeds]
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
        if spread.most is not None:
            seeds = len({str(run.params["train"]["seed"]) for run in runs})
            with_it = "" if spread.seed else ", with which the table plans"
            lines.append(
                f"{seeds} seeds know it no better than this: 8 times of 10 it is below {spread.most:.2f}{with_it}"
            )
    table = power_table(spread)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    closed, records = closed_questions(runs, score)
    what = "closed questions" if closed else "test records"
    lines.append(f"{what} needed to find a difference (points) 8 times of 10, by seeds of each recipe,")
    lines.append(
        "with one score, chosen before looking (`instruct compare --score`), and a spread that is as seen here:"
    )
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    if closed:
        lines.append(
            f"{closed} of these {records} test records are closed questions: it takes {records / closed:.2f} times as "
            "many test records"
        )
    return lines


def closed_questions(runs: Sequence[Run], score: str) -> tuple[int, int]:
    """How many test records have a right answer, if the score is about those, and how many there are."""
    if not runs or choose_scores(runs, [score] if score else [])[0][0] != ACCURACY:
        return 0, 0
    return len(records_with(runs, ACCURACY)), len(runs[0].groups)


def spread_of(runs: Sequence[Run], score: str) -> tuple[Spread, list[str]]:
    """The spread that runs show, and what is to be said of where it comes from."""
    if len(runs) < 2:
        raise ParamsError("one run shows no difference; give two runs, or several seeds of one recipe")
    (name, *_), _ = choose_scores(runs, [score] if score else [])
    if not any(beyond_seeds(runs[0], run) for run in runs[1:]):
        parts = split_variance(runs, name)
        if not parts.error and not parts.judge:
            raise DataError(f"{name}: these runs show no spread from record to record; give runs that differ")
        # A planned run is judged once. What a mean of the verdicts leaves is in the error between seeds, if there are.
        among = 1 / parts.verdicts if parts.seeds > 1 else 0.0
        again = (parts.judge or 0.0) ** 2 * (1 - among)
        item = (2 * (parts.items * parts.error**2 + again)) ** 0.5
        return Spread(item=item, seed=parts.seed, most=parts.seed_most), [
            f"{name}, from {len(runs)} runs of one recipe over {parts.items} records"
        ]
    if len(runs) > 2:
        raise ParamsError("more than two runs must be of one recipe (differ in seeds alone); give two, or seeds")
    found = compare(runs[:1], runs[1:], chosen=[name], anyway=True)
    pairs = {id_: (score_a, runs[1].scores[name].get(id_)) for id_, score_a in runs[0].scores[name].items()}
    differences = {id_: y - x for id_, (x, y) in pairs.items() if x is not None and y is not None}
    error, _ = standard_error(list(differences.values()), list(shared_groups(runs, list(differences)).values()))
    if not error:
        raise DataError(
            f"{name}: {len(differences)} records in {found.groups} groups show no spread; give runs that differ on more"
        )
    item = error * sqrt(len(differences))  # of a record that counts as much as these do, near-duplicates among them
    lines = [f"{name}, from {runs[0].name} and {runs[1].name} over {found.scores[0].count} records"]
    lines += [f"NOT COMPARABLE: {change}" for change in found.changes]
    smallest = found.scores[0].smallest
    if smallest is not None:
        lines.append(f"with these records the smallest detectable difference is {smallest:.1f} points")
    return Spread(item=item, seed=None), lines

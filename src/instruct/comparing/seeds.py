"""Several trainings of one recipe: what of a score's spread is the seed's, the judge's, the item's.

The model is score = mean + item + seed + rest, with items and seeds both drawn at random. Where each seed's answers
were judged several times (the judge's own seed differs), the rest splits into item by seed and the judge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from instruct.comparing.guard import changes_among
from instruct.core.errors import DataError, ParamsError
from instruct.core.parsing import flatten
from instruct.results.lock import trained_from, training_code
from instruct.results.runs import Run, changed_params
from instruct.statistics import POWER

SEED, PREFER_SEED = "train.seed", "prefer.seed"
UNSEEN = 0.5  # of the standard error of a mean: less of a seed's spread could not be seen beside it
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Components:
    """Standard deviations in points of one score; None where the runs given cannot tell.

    `judge` is of one verdict when the same answer is judged again, `rest` is item by seed (with the judge's in it,
    where `judge` is None). `error` is what items by seed and verdicts leave in the mean of one training, each group of
    near-duplicates counted once. `seed_most` is an upper limit: 8 times of 10 the true `seed` is below it.
    """

    mean: float
    items: int
    seeds: int
    verdicts: int
    item: float
    seed: float | None
    seed_most: float | None
    judge: float | None
    rest: float
    error: float


def is_seed(name: str) -> bool:
    """Whether a setting is a seed: of training, of preference tuning, or of a judge."""
    return name in (SEED, PREFER_SEED) or (
        name.split(".")[0] in ("evaluate", "servers") and name.rsplit(".", 1)[-1] == "seed"
    )


def beyond_seeds(one: Run, other: Run) -> list[str]:
    """What makes two runs no seeds of one recipe: settings that differ, and data or weights that training began with.

    Two DPO models made from one SFT model tell nothing of how far SFT moves with its seed, so `prefer.seed` is a
    seed only along with `train.seed`.
    """
    changes = changed_params(one, other)
    settings = [name for name in changes if not is_seed(name) or (name == PREFER_SEED and SEED not in changes)]
    begun = [trained_from(run.params, run.lock) for run in (one, other)]
    return [*settings, *differing(*begun)]


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names under which two mappings do not hold the same."""
    return sorted(name for name in {**one, **other} if one.get(name) != other.get(name))


def other_code(runs: Sequence[Run]) -> list[str]:
    """The code that not all of these runs trained with, as far as dvc.lock knows."""
    code = [training_code(run.params, run.lock) for run in runs]
    return list(dict.fromkeys(path for one in code[1:] for path in differing(code[0], one)))


def check_one_recipe(runs: Sequence[Run]) -> None:
    """Raise ParamsError where runs differ in more than seeds, or are one run twice."""
    for one, other in combinations(runs, 2):
        if others := beyond_seeds(one, other):
            raise ParamsError(
                f"{one.name} and {other.name}: differ in more than seeds ({', '.join(others)}); give runs that differ "
                f"in {SEED} (and {PREFER_SEED}) or in a judge's seed alone"
            )
    if len({str(sorted(_seeds(run).items())) for run in runs}) < len(runs):
        names = ", ".join(run.name for run in runs)
        raise ParamsError(f"{names}: two of them have the same seeds, so the same answers; give each run once")


def split_variance(runs: Sequence[Run], score: str) -> Components:
    """The components of one score over the items that every run has a score for (Searle et al., 1992, ch. 4).

    Raises ParamsError or DataError where the runs are not of one recipe, not comparable, not balanced, or share no
    scored item.
    """
    check_one_recipe(runs)
    if lines := changes_among(runs, [score]):
        names = ", ".join(run.name for run in runs)
        raise DataError("\n".join([f"{names}: are not comparable:", *(f"  {line}" for line in lines)]))
    cells, groups = _cells(runs, score)  # (seeds, verdicts, items)
    seeds, verdicts, items = cells.shape
    if items < 2 or seeds * verdicts < 2:
        raise DataError(f"{score}: {items} items of {seeds * verdicts} runs; at least two of both are needed")
    by_cell = cells.mean(axis=1)  # (seeds, items)
    by_item, by_seed = by_cell.mean(axis=0), by_cell.mean(axis=1)
    within = float(cells.var(axis=1, ddof=1).mean()) if verdicts > 1 else 0.0
    rest = residuals(by_cell)
    crossed = float((rest**2).sum()) / ((seeds - 1) * (items - 1)) if seeds > 1 else 0.0
    error = error_of_means(rest, groups) if seeds > 1 else 0.0
    return Components(
        mean=float(cells.mean()),
        items=items,
        seeds=seeds,
        verdicts=verdicts,
        item=_root(float(by_item.var(ddof=1)) - (crossed / seeds if seeds > 1 else within / verdicts)),
        seed=_root(float(by_seed.var(ddof=1)) - error**2) if seeds > 1 else None,
        seed_most=most_of_seed(float(by_seed.var(ddof=1)), error, seeds) if seeds > 1 else None,
        judge=_root(within) if verdicts > 1 else None,
        rest=_root(crossed - within / verdicts) if seeds > 1 else 0.0,
        error=error,
    )


def most_of_seed(variance: float, error: float, seeds: int) -> float:
    """An upper limit of the standard deviation between seeds: 8 times of 10 the true one is below it.

    `variance` is that of the means of `seeds` trainings, of which `error` is the standard error that items by seed
    leave in one. A chi-square quantile bounds the sum of both (Searle et al., 1992, ch. 3.5), and what the items
    explain is taken off. Seeds that came out closer than that error says leave UNSEEN of it as the limit.
    """
    total = variance * (seeds - 1) / (2 * float(gammaincinv((seeds - 1) / 2, 1 - POWER)))
    return max(_root(total - error**2), UNSEEN * error)


def error_of_means(rest: Array, groups: Sequence[str] | None) -> float:
    """The standard error of a row's mean from the (seeds, items) that are left of its items by seed."""
    names, place = np.unique(np.arange(rest.shape[1]) if groups is None else groups, return_inverse=True)
    if len(names) < 2:
        return 0.0
    sums = np.stack([np.bincount(place, row) for row in rest])  # (seeds, groups)
    return _root(float((sums**2).sum()) * len(names) / (len(names) - 1) / (len(rest) - 1)) / rest.shape[1]


def variance_lines(runs: Sequence[Run], chosen: Sequence[str]) -> list[str]:
    """What `instruct variance` prints: a line for each score."""
    names = chosen or scores_in_common(runs)
    left_out = [] if chosen else [name for name in runs[0].scores if name not in names]
    parts = [split_variance(runs, name) for name in names]
    lines = [
        f"{parts[0].seeds} training seeds, {parts[0].verdicts} verdicts each; standard deviations in points"
        if parts
        else "no score in common"
    ]
    for name, one in zip(names, parts, strict=True):
        known = (("item", one.item), ("seed", one.seed), ("judge", one.judge), ("item by seed", one.rest))
        said = ", ".join(f"{what} {'unknown' if sd is None else f'{sd:.2f}'}" for what, sd in known)
        most = "" if one.seed_most is None else f"; 8 times of 10 the seed's is below {one.seed_most:.2f}"
        lines.append(f"{name}: mean {one.mean:.1f} over {one.items} records: {said}{most}")
    lines += [f"{name}: fewer than two records have this score in every run, so left out" for name in left_out]
    if code := other_code(runs):
        lines.append(
            f"not all of these runs trained with the same code ({', '.join(code)}); the seed's share holds that"
        )
    if parts and parts[0].judge is None:
        lines.append("each answer was judged once, so `item by seed` holds the judge's share")
    if parts and parts[0].seeds == 1:
        lines.append("one training seed; run others: dvc exp run -n seed-124 -S train.seed=124")
    return lines


def scores_in_common(runs: Sequence[Run]) -> list[str]:
    """The scores that every run has of two records or more, the same in all."""
    everywhere = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
    return [name for name in everywhere if len(records_with(runs, name)) > 1]


def records_with(runs: Sequence[Run], score: str) -> list[str]:
    """The records that have this score in every run."""
    scores = [run.scores[score] for run in runs]
    return [id_ for id_ in runs[0].groups if all(one.get(id_) is not None for one in scores)]


def shared_groups(runs: Sequence[Run], ids: Sequence[str]) -> dict[str, str]:
    """The group of each record, in all runs together: records that one run groups are near-duplicates for all.

    A group is called by the first of its records, so that neither the order of the runs nor that of the records counts.
    """
    leader = {id_: id_ for id_ in ids}

    def find(id_: str) -> str:
        while leader[id_] != id_:
            id_ = leader[id_]
        return id_

    for run in runs:
        first: dict[str, str] = {}
        for id_ in ids:
            one, other = sorted((find(first.setdefault(run.groups[id_], id_)), find(id_)))
            leader[other] = one
    return {id_: find(id_) for id_ in ids}


def by_training(runs: Sequence[Run], score: str, ids: Sequence[str]) -> Array:
    """One row a training seed, one column a record: the mean of what its verdicts say, NaN where one says nothing.

    Verdicts of one training, from judges with other seeds, say nothing of what another training would have given.
    """
    scores = [run.scores[score] for run in runs]
    table = np.array([[one.get(id_) for id_ in ids] for one in scores], dtype=np.float64)
    seeds = [str(_seeds(run)[SEED]) for run in runs]
    rows = [[place for place, own in enumerate(seeds) if own == seed] for seed in dict.fromkeys(seeds)]
    return np.stack([table[places].mean(axis=0) for places in rows])


def residuals(table: Array) -> Array:
    """What items by seed leave of a table of (seeds, items)."""
    return table - table.mean(axis=0) - table.mean(axis=1)[:, None] + table.mean()


def _cells(runs: Sequence[Run], score: str) -> tuple[Array, list[str]]:
    """Scores by training, verdict and item, and each item's group."""
    missing = [run.name for run in runs if score not in run.scores]
    if missing:
        raise ParamsError(f'{missing[0]}: has no score "{score}"; there are {", ".join(runs[0].scores)}')
    ids = records_with(runs, score)
    if not ids:
        raise DataError(f"{score}: no record has a score in every run; compare runs of one test set")
    by_seed: dict[str, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(str(_seeds(run)[SEED]), []).append(run)
    if len({len(cell) for cell in by_seed.values()}) > 1:
        counts = ", ".join(f"{len(cell)} of seed {seed}" for seed, cell in by_seed.items())
        raise ParamsError(f"as many verdicts are needed of each training; there are {counts}")
    table = [[[run.scores[score][id_] for id_ in ids] for run in cell] for cell in by_seed.values()]
    return np.array(table, dtype=np.float64), list(shared_groups(runs, ids).values())


def _seeds(run: Run) -> Mapping[str, object]:
    found = {name: value for name, value in flatten(run.params).items() if is_seed(name)}
    if SEED not in found:
        raise DataError(f"params.yaml of {run.name}: holds no {SEED}; give runs of this pipeline")
    return found


def _root(variance: float) -> float:
    """A standard deviation; a component that came out below 0 is 0."""
    return max(variance, 0.0) ** 0.5

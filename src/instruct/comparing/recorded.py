"""metrics/seeds.json: how far seeds alone moved each score in runs that were once compared, for those with one seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path

from scipy.special import ndtr, ndtri

from instruct.comparing.seeds import Components, split_variance
from instruct.core.errors import DataError, ParamsError
from instruct.core.files import read_json, write_json
from instruct.core.params import build, require
from instruct.core.parsing import mapping
from instruct.results.runs import Run
from instruct.statistics import ALPHA

RECORD = Path("metrics/seeds.json")
REMEDY = "record it again with `instruct variance RUN RUN --record`"


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """What the seed alone did to the mean of one score in so many runs: its standard deviation and an upper limit."""

    seeds: int
    records: int
    seed_sd: float
    seed_sd_most: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(name, value, 0 <= value < 1e9, "a number from 0")


def record_seeds(runs: Sequence[Run], scores: Sequence[str], root: Path) -> Path:
    """Write what the seed does to each of these scores; raises ParamsError where runs have one seed only."""
    parts = {name: split_variance(runs, name) for name in scores}
    spreads = {name: _spread(one) for name, one in parts.items()}
    write_json(root / RECORD, {"scores": spreads})
    return RECORD


def _spread(one: Components) -> dict[str, float]:
    if one.seed is None or one.seed_most is None:
        raise ParamsError("--record needs runs of two seeds or more; run others: instruct recipe seed-124")
    sds = {"seed_sd": round(one.seed, 4), "seed_sd_most": round(one.seed_most, 4)}
    return {"seeds": one.seeds, "records": one.items, **sds}


def read_recorded(root: Path) -> dict[str, SeedSpread]:
    """What is recorded of each score; empty where nothing is. Raises DataError that names file and field."""
    if not (root / RECORD).is_file():
        return {}
    scores = mapping(mapping(read_json(root / RECORD)).get("scores"))
    try:
        return {name: build(SeedSpread, one, where=f"{RECORD}: scores.{name}") for name, one in scores.items()}
    except ParamsError as error:
        raise DataError(f"{error}; {REMEDY}") from None


def rate_of_seeds_alone(error: float, seed_sd: float) -> float:
    """How often two runs that differ in the seed alone are called different, by a test with this standard error.

    The items' noise and that of two seeds add up; the test knows of the former only.
    """
    if not error:
        return 1.0 if seed_sd else 0.0
    return float(2 * ndtr(float(ndtri(ALPHA / 2)) * error / hypot(error, seed_sd * 2**0.5)))

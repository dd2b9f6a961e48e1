"""metrics/seeds.json: how far seeds alone moved each score in runs that were once compared, for those with one seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot
from pathlib import Path

from scipy.special import ndtr, ndtri

from instruct.comparing.guard import described, measures_of
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
    """What the seed alone did to the mean of one score in so many runs: its standard deviation and an upper limit.

    `measured_by` is the test set and the measure or judge, as the function of that name tells them; old files lack it.
    """

    seeds: int
    records: int
    seed_sd: float
    seed_sd_most: float
    measured_by: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "measured_by":
                require(name, value, 0 <= value < 1e9, "a number from 0")

    def unlike(self, run: Run, score: str) -> str:
        """Why this tells nothing of a run's score; empty where it does."""
        now = measured_by(run, score)
        if not self.measured_by:
            return "does not say for which test set it was recorded"
        if self.measured_by.get("test") != now["test"]:
            return "was recorded for another test set"
        return "" if self.measured_by == now else "was recorded by another measure or judge"


def measured_by(run: Run, score: str) -> dict[str, str]:
    """The digest of the run's test set, and what tells the score's measure or judge from others."""
    judge = run.results.judge(score)
    judged_by = described(judge) if judge else {}
    return {"test": run.results.test.sha256, **measures_of(run.results, [score]), **judged_by}


def record_seeds(runs: Sequence[Run], scores: Sequence[str], root: Path) -> Path:
    """Write what the seed does to each of these scores; raises ParamsError where runs have one seed only."""
    parts = {name: split_variance(runs, name) for name in scores}
    spreads = {name: {**_spread(one), "measured_by": measured_by(runs[0], name)} for name, one in parts.items()}
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

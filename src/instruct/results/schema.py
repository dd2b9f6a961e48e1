"""metrics/evaluate.json: what `evaluate` found about any number of named systems, read strictly.

The order of the systems is part of the results: the first is the one that others are compared with, the last is the
primary one. A number that does not exist is absent, never null and never 0.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from instruct.core.errors import DataError, ParamsError
from instruct.core.params import build, require
from instruct.core.parsing import parse_json

VERSION = 2
DECIMALS = 4
REMEDY = "run `dvc repro evaluate` there"
REFERENCE = "reference"  # the judge that needs no model
MEASURES = {
    "similarity": "similarity",
    "exact_match": "exact match",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
}
"""Scores of single answers that need no judge, and their names in print."""
CORPUS_MEASURES = {"bleu": "BLEU"}
"""Scores of all answers together."""
STOP_REASONS = ("end_of_text", "stop_string", "length", "repetition")
_SYSTEM = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """Which records were answered, by a digest of their content, and with which prompt template."""

    __test__ = False  # for pytest

    records: int
    sha256: str
    template: str
    template_sha256: str

    def __post_init__(self) -> None:
        require("records", self.records, self.records > 0, "at least 1")
        for name in ("sha256", "template_sha256"):
            require(name, "empty", bool(getattr(self, name)), "a digest")


@dataclass(frozen=True, kw_only=True)
class System:
    """One system: the file of its answers with the md5 that dvc.lock knows it by, how they ended, means of measures."""

    name: str
    answers: str
    md5: str
    mean_tokens: float
    stopped: dict[str, int]
    measures: dict[str, float]

    def __post_init__(self) -> None:
        require("name", self.name, bool(_SYSTEM.fullmatch(self.name)), "lower-case letters, digits and hyphens")
        for name, count in self.stopped.items():
            require(f"stopped.{name}", count, type(count) is int and count >= 0, "a count")
        for name in (*MEASURES, *CORPUS_MEASURES):
            require(
                f"measures.{name}", self.measures.get(name, "absent"), _is_number(self.measures.get(name)), "a number"
            )

    @property
    def ended(self) -> float:
        """The share of answers that ended by themselves."""
        total = sum(self.stopped.values())
        return (self.stopped.get("end_of_text", 0) + self.stopped.get("stop_string", 0)) / max(total, 1)


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Mean scores of answers whose worth is known, by kind, and whether they came in the expected order."""

    fit: bool
    count: int
    unscored: int
    scores: dict[str, float]

    def __post_init__(self) -> None:
        for name, score in self.scores.items():
            require(f"scores.{name}", score, _is_number(score), "a number")


@dataclass(frozen=True, kw_only=True)
class SystemScores:
    """One judge's scores of one system. Only the counts exist if nothing was scored."""

    system: str
    scored: int
    unscored: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    worst_case: float | None = None
    best_case: float | None = None
    q1: float | None = None
    median: float | None = None
    q3: float | None = None
    mean_spread: float | None = None
    flipped: float | None = None
    failed_repeats: int | None = None
    orders: int | None = None
    consistent: int | None = None
    first_place_won: float | None = None

    def __post_init__(self) -> None:
        _require_if(self, self.scored > 0, "mean", "low", "high", "worst_case", "best_case", "q1", "median", "q3")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One system against another, over the `count` records that have both scores. Only the count exists if it is 0."""

    system: str
    against: str
    count: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    worst_case: float | None = None
    best_case: float | None = None

    def __post_init__(self) -> None:
        numbers = ("mean", "low", "high", "p_value", "wins", "ties", "losses", "worst_case", "best_case")
        _require_if(self, self.count > 0, *numbers)


@dataclass(frozen=True, kw_only=True)
class SliceScore:
    """One system's mean over its `records` of a slice."""

    system: str
    records: int
    scored: int
    mean: float | None = None

    def __post_init__(self) -> None:
        _require_if(self, self.scored > 0, "mean")


@dataclass(frozen=True, kw_only=True)
class SliceChange:
    """One system against another over a slice; the interval exists where there are pairs enough."""

    system: str
    against: str
    count: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _require_if(self, self.count > 0, "mean")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Records with one value of a property; without `differences` for a property of the answer, not of the task."""

    property: str
    value: str
    systems: tuple[SliceScore, ...]
    differences: tuple[SliceChange, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Unscored:
    """An answer without a score: whose, why, and how the judge's reply began."""

    id: str
    system: str
    problem: str
    raw_reply: str


@dataclass(frozen=True, kw_only=True)
class JudgeResults:
    """All that one judge said. `differences` are of every other system against the first."""

    name: str
    identity: dict[str, str]
    rubric: str
    rubric_sha256: str
    controls: Controls
    systems: tuple[SystemScores, ...]
    differences: tuple[Difference, ...]
    slices: tuple[Slice, ...]
    unscored: tuple[Unscored, ...]

    def __post_init__(self) -> None:
        require("identity", "empty", bool(self.identity), "what tells this judge from others")
        require("rubric_sha256", "empty", bool(self.rubric_sha256) or not self.rubric, "a digest, as there is a rubric")
        for name, value in self.identity.items():
            require(f"identity.{name}", value, isinstance(value, str), "a text")

    def scores_of(self, system: str) -> SystemScores:
        """The scores of a system."""
        return next(one for one in self.systems if one.system == system)

    def difference_of(self, system: str) -> Difference:
        """A system against the first one."""
        return next(one for one in self.differences if one.system == system)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two judges on the answers that both scored. What is not defined, as for constant scores, is None."""

    first: str
    second: str
    count: int
    pearson: float | None = None
    spearman: float | None = None
    kendall: float | None = None
    kappa: float | None = None
    kappa_weighted: float | None = None
    mean_difference: float | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """The whole of metrics/evaluate.json."""

    version: int
    test: TestSet
    systems: tuple[System, ...]
    judges: tuple[JudgeResults, ...]
    signatures: dict[str, str]
    agreement: tuple[Agreement, ...] = ()

    def __post_init__(self) -> None:
        names = list(self.names)
        require("systems", names, len(names) > 1 and len(set(names)) == len(names), "two or more with different names")
        judges = [judge.name for judge in self.judges]
        require("judges", judges, bool(judges) and len(set(judges)) == len(judges), "one or more, each once")
        for place, judge in enumerate(self.judges):
            scored = [one.system for one in judge.systems]
            require(f"judges[{place}].systems", scored, scored == names, f"of {', '.join(names)}")
            compared = [(one.system, one.against) for one in judge.differences]
            wanted = [(name, names[0]) for name in names[1:]]
            require(f"judges[{place}].differences", compared, compared == wanted, "of every system against the first")
        require("signatures", "empty", bool(self.signatures), "of the measures")
        for name, value in self.signatures.items():
            require(f"signatures.{name}", value, isinstance(value, str), "a text")

    @property
    def names(self) -> tuple[str, ...]:
        """The systems' names in order."""
        return tuple(one.name for one in self.systems)

    @property
    def against(self) -> str:
        """The system that the others are compared with: the first."""
        return self.systems[0].name

    @property
    def primary(self) -> str:
        """The system that the run is about: the last."""
        return self.systems[-1].name

    @property
    def main_judge(self) -> JudgeResults:
        """The judge whose scores come first: `reference` where it judged, else the first one."""
        return next((judge for judge in self.judges if judge.name == REFERENCE), self.judges[0])

    def system(self, name: str) -> System:
        """The system of this name."""
        return next(one for one in self.systems if one.name == name)

    def judge(self, name: str) -> JudgeResults | None:
        """The judge of this name, or None."""
        return next((judge for judge in self.judges if judge.name == name), None)


def dump(results: Results) -> dict[str, Any]:
    """The results as JSON's values."""
    return asdict(results, dict_factory=lambda pairs: {name: value for name, value in pairs if value is not None})


def load(text: str, where: str) -> Results:
    """The results that a text holds; raises DataError that begins with `where` and names the field in dots."""
    values = parse_json(text, where)
    version = values.get("version", 1) if isinstance(values, dict) else None
    if version != VERSION:
        raise DataError(f"{where}: is of version {version or 'unknown'}, version {VERSION} is needed; {REMEDY}")
    try:
        _refuse_infinite(values, "results")
        return build(Results, values, where="results")
    except ParamsError as error:
        problem = str(error).removeprefix("results").removeprefix(".").partition(";")[0]
        raise DataError(f"{where}: {problem}; {REMEDY}") from None


def _refuse_infinite(value: Any, where: str) -> None:
    """Raise ParamsError for NaN and infinities, which Python's JSON lets through."""
    if isinstance(value, float):
        require(where, value, isfinite(value), "finite")
    elif isinstance(value, Mapping):
        for name, one in value.items():
            _refuse_infinite(one, f"{where}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for place, one in enumerate(value):
            _refuse_infinite(one, f"{where}[{place}]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_if(record: Any, wanted: bool, *names: str) -> None:
    """These fields exist if and only if something was counted."""
    for name in names:
        value = getattr(record, name)
        require(
            name, "absent" if value is None else value, (value is not None) == wanted, "there" if wanted else "absent"
        )

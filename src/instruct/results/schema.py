"""metrics/evaluate.json: what `evaluate` found about any number of named systems, read strictly.

The order of the systems is part of the results: the last is the primary one, the first is compared with unless another
of the `baselines` is better. A number that does not exist is absent, never null and never 0.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

from instruct.core.errors import DataError, ParamsError
from instruct.core.params import build, require
from instruct.core.parsing import is_number, parse_json
from instruct.results.scores import ScoreResults

VERSION = 2
DECIMALS = 4
REMEDY = "run `dvc repro evaluate` there"
REFERENCE = "reference"  # the judge that needs no model
ACCURACY, SIMILARITY = "accuracy", "similarity"
REFERENCE_METRICS = {
    SIMILARITY: "similarity",
    "exact_match": "exact match",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
}
"""Scores of single answers against the reference answer, and their names in print."""
MEASURES = {ACCURACY: "right answers", **REFERENCE_METRICS}
"""All scores of single answers that need no judge; only answers to closed questions have the first."""
HEADLINE = {
    ACCURACY: "right answers to closed questions",
    "open_similarity": "similarity of answers to open questions",
    SIMILARITY: "similarity to the reference answer",
}
"""What comes first, as far as it exists, in print: the whole similarity only without right answers."""
DETAILS = {"closed_similarity": "similarity of answers to closed questions"}
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
            value = self.measures.get(name, "absent")
            exists = name != ACCURACY or ACCURACY in self.measures
            require(f"measures.{name}", value, is_number(value) or not exists, "a number")

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
            require(f"scores.{name}", score, is_number(score), "a number")


@dataclass(frozen=True, kw_only=True)
class Unscored:
    """An answer without a score: whose, why, and how the judge's reply began."""

    id: str
    system: str
    problem: str
    raw_reply: str


@dataclass(frozen=True, kw_only=True)
class MeasureResults(ScoreResults):
    """A score that needs no judge, over the records that can have it: one of HEADLINE or DETAILS."""

    def __post_init__(self) -> None:
        require("name", self.name, self.name in HEADLINE | DETAILS, f"of {', '.join(HEADLINE | DETAILS)}")


@dataclass(frozen=True, kw_only=True)
class JudgeResults(ScoreResults):
    """All that one judge said."""

    identity: dict[str, str]
    rubric: str
    rubric_sha256: str
    controls: Controls
    unscored: tuple[Unscored, ...]

    def __post_init__(self) -> None:
        require("identity", "empty", bool(self.identity), "what tells this judge from others")
        require("rubric_sha256", "empty", bool(self.rubric_sha256) or not self.rubric, "a digest, as there is a rubric")
        for name, value in self.identity.items():
            require(f"identity.{name}", value, isinstance(value, str), "a text")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two judges on those of a system's answers that both scored. What is not defined, as for constants, is None.

    With a judge of pairs it is on the system's wins (100), ties (50) and losses (0) against the other one. Older
    results name no system: theirs is over all answers.
    """

    first: str
    second: str
    system: str = ""
    count: int
    pearson: float | None = None
    spearman: float | None = None
    kendall: float | None = None
    kappa: float | None = None
    kappa_weighted: float | None = None
    mean_difference: float | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """The whole of metrics/evaluate.json.

    `baselines` are the systems that a trained one must beat, and `best_baseline` is the best of them by the primary
    measure; both name the first system where they are absent. `measured` are scores without a judge, the primary first.
    """

    version: int
    test: TestSet
    systems: tuple[System, ...]
    judges: tuple[JudgeResults, ...]
    signatures: dict[str, str]
    agreement: tuple[Agreement, ...] = ()
    baselines: tuple[str, ...] = ()
    best_baseline: str | None = None
    measured: tuple[MeasureResults, ...] = ()

    def __post_init__(self) -> None:
        names = list(self.names)
        require("systems", names, len(names) > 1 and len(set(names)) == len(names), "two or more with different names")
        judges = [judge.name for judge in self.judges]
        require("judges", judges, bool(judges) and len(set(judges)) == len(judges), "one or more, each once")
        require("baselines", list(self.baselines), set(self.baselines) <= set(names[:-1]), "of the systems")
        known = self.best_baseline is None or self.best_baseline in self.baselines
        require("best_baseline", self.best_baseline, known, "one of the baselines")
        for field, found in (("judges", self.judges), ("measured", self.measured)):
            for place, one in enumerate(found):
                self._require_systems(f"{field}[{place}]", one)
        require("signatures", "empty", bool(self.signatures), "of the measures")
        for name, value in self.signatures.items():
            require(f"signatures.{name}", value, isinstance(value, str), "a text")

    def _require_systems(self, where: str, found: ScoreResults) -> None:
        """All systems in their order, each but one compared with that; a judge of pairs knows two of them."""
        scored, names = [one.system for one in found.systems], list(self.names)
        pairs = [[name for name in names if name in (self.against, self.primary)], list(self.trained[-2:])]
        known = [names, *pairs] if isinstance(found, JudgeResults) else [names]
        require(f"{where}.systems", scored, scored in known, f"of {', '.join(names)}")
        compared = [(one.system, one.against) for one in found.differences]
        against = self.against if self.against in scored else scored[0]
        wanted = [(name, against) for name in scored if name != against]
        require(f"{where}.differences", compared, compared == wanted, f"of every system against {against}")
        if found.over_previous is not None:
            steps = [(one.against, one.system) for one in found.over_previous]
            known_steps = list(pairwise(self.trained))
            require(f"{where}.over_previous", steps, steps == known_steps, "of each trained system against the last")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.systems)

    @property
    def against(self) -> str:
        """The system that the others are compared with: the best baseline."""
        return self.best_baseline or self.systems[0].name

    @property
    def primary(self) -> str:
        """The system that the run is about: the last."""
        return self.systems[-1].name

    @property
    def trained(self) -> tuple[str, ...]:
        """The systems that are no baselines."""
        return tuple(name for name in self.names if name not in (self.baselines or self.names[:1]))

    @property
    def previous(self) -> str | None:
        """The trained system that the primary one was made from, such as the SFT model; None where there is none."""
        step = self.headline[0].step_of(self.primary)
        return step.against if step else None

    @property
    def shown(self) -> tuple[str, ...]:
        """The systems whose answers are shown side by side: the first, the best baseline, and all that are trained."""
        return shown_systems(self.names, self.baselines, self.against)

    @property
    def headline(self) -> tuple[ScoreResults, ...]:
        """The scores that come first, the primary one at the beginning; the main judge's where nothing is measured."""
        return tuple(one for one in self.measured if one.name in HEADLINE) or (self.main_judge,)

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures of single answers that this run has."""
        return tuple(name for name in MEASURES if name in self.systems[0].measures)

    @property
    def main_judge(self) -> JudgeResults:
        """The judge whose scores come first: `reference` where it judged, else the first one."""
        return next((judge for judge in self.judges if judge.name == REFERENCE), self.judges[0])

    def system(self, name: str) -> System:
        return next(one for one in self.systems if one.name == name)

    def judge(self, name: str) -> JudgeResults | None:
        """The judge of this name, or None."""
        return next((judge for judge in self.judges if judge.name == name), None)


def shown_systems(names: Sequence[str], baselines: Collection[str], against: str) -> tuple[str, ...]:
    """The first system, `against`, and all that are not baselines, in their order."""
    first = names[0]
    return tuple(one for one in names if one in (first, against) or one not in baselines)


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

"""Compares two runs, or two recipes of several runs each: every score's difference and what may be said of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from instruct.comparing.guard import changes_among
from instruct.comparing.scores import RESAMPLES, SEED, PairedScores, ScoreChange, correct_for_all, pair_scores
from instruct.comparing.seeds import check_one_recipe, records_with, shared_groups
from instruct.core.errors import DataError, ParamsError
from instruct.core.params import did_you_mean
from instruct.results.runs import Run
from instruct.results.schema import ACCURACY, MEASURES, REFERENCE, SIMILARITY, Results
from instruct.statistics import paired_tests

PRIMARY = (ACCURACY, SIMILARITY)  # the score that a verdict is about unless another is chosen: the first there is
SAME_ANSWERS = "same answers; only the scoring differs"
BEST = "best"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that `instruct compare` says. The first of the scores is the primary one; the others are exploratory.

    `changes` are why the runs are not comparable; empty where they are. `left_out` are scores that were not compared
    though a run has them, each with the reason. `identical` says that all runs gave the same answers, byte for byte.
    """

    a: tuple[Run, ...]
    b: tuple[Run, ...]
    changes: tuple[str, ...]
    left_out: tuple[str, ...]
    unmatched: int
    records: int
    groups: int
    scores: tuple[ScoreChange, ...]
    identical: bool = False

    @property
    def primary(self) -> ScoreChange:
        """The score that the verdict is about."""
        return self.scores[0]

    @property
    def of_recipes(self) -> bool:
        """Whether this speaks of recipes, of which each side shows several trainings, or of trained models."""
        return self.primary.of_recipes

    @property
    def against_baseline(self) -> bool:
        """Whether A is a baseline of B's runs, which no training made."""
        return bool(self.a[0].baseline)

    @property
    def verdict(self) -> str:
        """One sentence about the primary score."""
        a, b, score = side_name(self.a), side_name(self.b), self.primary
        if self.changes:
            return f"{b} and {a} are not comparable."
        if self.identical:
            return f"{b} and {a} gave the same answers, byte for byte."
        if score.found == "not distinguishable":
            return f"{b} is not distinguishable from {a} in {score.name}."
        models = (
            ""
            if score.of_recipes
            else f"These {'two' if len(self.a) + len(self.b) == 2 else 'trained'} models differ: "
        )
        return f"{models}{b} is {score.verdict} in {score.name} than {a}."

    def withheld(self, score: ScoreChange) -> str:
        """What is said of one score where no difference may be called better or worse; empty where one may."""
        if self.changes:
            return "not comparable"
        if self.identical:
            return "same answers" if score.unchanged else SAME_ANSWERS
        return ""


def side_name(runs: Sequence[Run]) -> str:
    """The runs of one side as the user named them."""
    return " + ".join(run.name for run in runs)


class NotComparableError(DataError):
    """Two sides between which no difference may be stated; `reasons` are why, one line each."""

    def __init__(self, a: Sequence[Run], b: Sequence[Run], reasons: Sequence[str], remedy: str) -> None:
        lines = "\n".join(f"  {reason}" for reason in reasons)
        super().__init__(f"{side_name(a)} and {side_name(b)} are not comparable:\n{lines}\n{remedy}")
        self.reasons = tuple(reasons)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Two sides that may be compared, or are in spite of `changes`: the scores that all runs have, record by record."""

    pairs: list[PairedScores]
    changes: list[str]
    left_out: list[str]
    records: list[str]
    unmatched: int


def prepare(a: Sequence[Run], b: Sequence[Run], *, chosen: Sequence[str] = (), anyway: bool = False) -> Prepared:
    """Pair the scores of recipe B's runs with those of recipe A's on the records that all of them answered.

    `chosen` names the scores, all that both have by default. Raises NotComparableError if the guard finds
    a change and `anyway` is not set, or records differ; DataError or ParamsError if a score, record or seed is missing,
    or if one of several runs is on both sides.
    """
    for side in (a, b):
        check_one_recipe(side)
    runs = (*a, *b)
    if len(runs) > 2 and (shared := [run.name for run in b if any(_same_run(run, one) for one in a)]):
        raise ParamsError(f"{', '.join(shared)}: is on both sides; give each side runs of its own")
    names, left_out = choose_scores(runs, chosen)
    changes = changes_among(runs, names if chosen else [*names, *replaced_judges(a, b)])
    if changes and not anyway:
        remedy = "run both with the same, or add --anyway for a report that is marked as not comparable"
        raise NotComparableError(a, b, changes, remedy)
    everywhere = sorted(id_ for id_ in a[0].groups if all(id_ in run.groups for run in runs))
    unmatched = len({id_ for run in runs for id_ in run.groups}) - len(everywhere)
    if not everywhere:
        raise NotComparableError(a, b, ["no record in common"], "compare runs of one test set")
    if unmatched and not changes:
        reason = f"{unmatched} records are not in each one's metrics/scores.csv, though the test set is the same"
        raise NotComparableError(a, b, [reason], "run `dvc repro evaluate` in both")
    pairs = [pair_scores(a, b, name, everywhere) for name in names]
    return Prepared(pairs=pairs, changes=changes, left_out=left_out, records=everywhere, unmatched=unmatched)


def _same_run(one: Run, other: Run) -> bool:
    """Whether two names mean one run."""
    return one == other or (one.commit == other.commit != "" and one.system == other.system)


def baseline_of(runs: Sequence[Run], name: str = BEST, score: str = "") -> Run:
    """A baseline of these runs to compare them with: the one of this name, or the best in `score`.

    The best is that of the first run, by the score that its own verdict is about unless another is given. Raises
    ParamsError if a run has none of that name, DataError if the baseline did not answer alike in all runs.
    """
    results = runs[0].results
    known = _baselines(results)
    if name == BEST:
        name = _best_in(runs[0], score, known) if score else results.against
    for run in runs:
        if name not in _baselines(run.results):
            raise ParamsError(f'{run.name} has no baseline "{name}"{did_you_mean(name, known)}')
        if run.results.system(name).md5 != results.system(name).md5:
            raise DataError(
                f"{name} answered differently in {runs[0].name} and {run.name}, so it is not one baseline of both; "
                "compare runs of one split with the same settings of `baseline`"
            )
    return replace(runs[0], name=name, baseline=name, stale=(), split={}, curves={})


def _baselines(results: Results) -> list[str]:
    return [name for name in results.names if name not in results.trained]


def _best_in(run: Run, score: str, names: Sequence[str]) -> str:
    """The system with the highest mean of a score; the first of equals."""
    systems = run.table.scores.get(score, {})
    scored = {name: [value for value in systems.get(name, {}).values() if value is not None] for name in names}
    return max(names, key=lambda name: fmean(scored[name] or [0.0]))


def compare(a: Sequence[Run], b: Sequence[Run], *, chosen: Sequence[str] = (), anyway: bool = False) -> Comparison:
    """Compare the runs of recipe B with those of recipe A, as `prepare` pairs them.

    The first score is the primary one and is tested alone; the others are exploratory, corrected for each other.
    """
    found = prepare(a, b, chosen=chosen, anyway=anyway)
    tests = paired_tests([(pair.differences, pair.groups) for pair in found.pairs], resamples=RESAMPLES, seed=SEED)
    primary = correct_for_all(found.pairs[:1], tests[:1])
    return Comparison(
        a=tuple(a),
        b=tuple(b),
        changes=tuple(found.changes),
        left_out=tuple(found.left_out),
        unmatched=found.unmatched,
        records=len(found.records),
        groups=len(set(shared_groups((*a, *b), found.records).values())),
        scores=(*primary, *correct_for_all(found.pairs[1:], tests[1:], exploratory=True)),
        identical=same_answers((*a, *b)),
    )


def same_answers(runs: Sequence[Run]) -> bool:
    """Whether all runs gave the same answers, byte for byte."""
    answers = {run.results.system(run.system).md5 for run in runs}
    return len(answers) == 1 and "" not in answers


def choose_scores(runs: Sequence[Run], chosen: Sequence[str]) -> tuple[list[str], list[str]]:
    """The scores to compare, the primary one first, and a line for each left out.

    These are the chosen ones in their order, or else all that every run has of a record: the first of PRIMARY that is
    there, judges by name, measures. Raises ParamsError for one chosen that a run lacks, DataError where they share
    none.
    """
    everywhere = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
    for name in chosen:
        if name not in everywhere:
            raise ParamsError(f'there is no score "{name}" in every run{did_you_mean(name, everywhere)}')
    if chosen:
        return list(dict.fromkeys(chosen)), []
    if not everywhere:
        raise DataError(f"{runs[0].name} and {runs[-1].name}: no score in common; judge both with the same judge")
    empty = [name for name in everywhere if not records_with(runs, name)]
    names = [name for name in everywhere if name not in empty] or everywhere
    # The judge `reference` and the measure `similarity` are one number; it is not tested twice.
    if REFERENCE in names and all(run.scores[REFERENCE] == run.scores.get(SIMILARITY) for run in runs):
        names = [name for name in names if name != REFERENCE]
    lacking = {name: [run.name for run in runs if name not in run.scores] for run in runs for name in run.scores}
    left_out = [f"{name}: not in {', '.join(of)}, so not compared" for name, of in lacking.items() if of]
    left_out += [f"{name}: no record has this score in every run, so not compared" for name in empty]
    return sorted(names, key=_rank), left_out


def _rank(name: str) -> tuple[int, int, str]:
    """Where a score comes among others, in whichever order the runs have them."""
    primary = PRIMARY.index(name) if name in PRIMARY else len(PRIMARY)
    measures = list(MEASURES)
    return primary, measures.index(name) + 1 if name in measures else 0, name


def replaced_judges(a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    """All judges where one of A's has not judged B; empty where B's judges are A's and perhaps more."""
    judges = [{judge.name for run in side for judge in run.results.judges} for side in (a, b)]
    return sorted(judges[0] | judges[1]) if judges[0] - judges[1] else []

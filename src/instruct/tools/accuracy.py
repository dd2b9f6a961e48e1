"""How many closed questions each system answers right, by what data/checks.json says of each record."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from instruct.checks.rules import is_right
from instruct.checks.schema import Check, parse_check
from instruct.core.errors import DataError
from instruct.core.files import read_json
from instruct.core.records import Response, read_responses
from instruct.results.runs import read_run
from instruct.statistics import mean_interval, paired_test

CHECKS = Path("data/checks.json")
RESAMPLES, SEED = 10_000, 123


def accuracy_of(root: Path) -> Iterator[str]:
    """What `instruct accuracy` prints for the answers of the run in this folder."""
    systems = read_run("workspace", root).results.systems
    answers = {one.name: read_responses(root / one.answers) for one in systems}
    return accuracy_lines(answers, read_checks(root / CHECKS))


def accuracy_lines(answers: Mapping[str, Sequence[Response]], checks: Mapping[str, Check]) -> Iterator[str]:
    """One line a system, then each one's paired difference from the first; shares in percent with 95 % intervals."""
    first = next(iter(answers.values()))
    closed = [place for place, one in enumerate(first) if one.id in checks and not checks[one.id].is_open]
    if not closed:
        raise DataError(f"{CHECKS}: knows no closed question of the {len(first)} test records; add their checks")
    groups = [first[place].group or first[place].id for place in closed]
    right = {name: [score(those[place], checks) for place in closed] for name, those in answers.items()}
    for name, scores in right.items():
        found = mean_interval(scores, resamples=RESAMPLES, seed=SEED, groups=groups)
        count = round(sum(scores) / 100)
        yield f"{name}: {count} of {len(closed)} right, {found.mean:.1f} % ({found.low:.1f} to {found.high:.1f})"
    against, *others = right
    for name in others:
        paired = paired_test(right[against], right[name], resamples=RESAMPLES, seed=SEED, groups=groups)
        low, high = paired.difference.low, paired.difference.high
        yield f"{name} - {against}: {paired.difference.mean:+.1f} ({low:+.1f} to {high:+.1f}), p = {paired.p_value:.4f}"
    yield f"{len(first) - len(closed)} of {len(first)} records are open or have no check: they are not counted"


def read_checks(path: Path) -> dict[str, Check]:
    """The checks by record id; raises DataError that names file, record and field."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path}: must be an object with a check for each record's id")
    return {id_: parse_check(value, f"{path}: {id_}") for id_, value in values.items()}


def score(answer: Response, checks: Mapping[str, Check]) -> float:
    """100 for a right answer, 0 for a wrong one."""
    question = f"{answer.instruction}\n{answer.input}"
    return 100.0 if is_right(checks[answer.id], answer.response, question) else 0.0

"""What must be the same before two runs may be compared: test set, template, rubric, judge, measures."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from instruct.results.runs import Run
from instruct.results.schema import REFERENCE, JudgeResults, TestSet

SHOWN = 12  # characters of a hash


def changes_among(runs: Sequence[Run], scores: Collection[str]) -> list[str]:
    """What differs between the first run and any other, each line once."""
    return list(dict.fromkeys(line for run in runs[1:] for line in find_changes(runs[0], run, scores)))


def find_changes(a: Run, b: Run, scores: Collection[str]) -> Iterator[str]:
    """What differs between two runs and makes `scores` incomparable, one line each; nothing if they are comparable."""
    one, other = a.results, b.results
    if one.test.sha256 != other.test.sha256:
        yield f"the test set: {_test(one.test)} in {a.name}, {_test(other.test)} in {b.name}"
    if (one.test.template, one.test.template_sha256) != (other.test.template, other.test.template_sha256):
        yield f"the template: {_template(one.test)} in {a.name}, {_template(other.test)} in {b.name}"
    judges = dict.fromkeys(judge.name for results in (one, other) for judge in results.judges)
    for name in judges:
        if name in scores:
            yield from _judge_changes(name, a, b)
    # Every score that is not a model's opinion is a measure of similarity; the judge `reference` is a mean of such.
    if set(scores) - (set(judges) - {REFERENCE}):
        yield from _changes("the measure", one.signatures, other.signatures, a, b)


def _judge_changes(name: str, a: Run, b: Run) -> Iterator[str]:
    judges = [run.results.judge(name) for run in (a, b)]
    one, other = judges
    if one is None or other is None:
        there, lacking = (b, a) if one is None else (a, b)
        yield f"the judge: {name} has judged {there.name}, not {lacking.name}"
    else:
        yield from _changes(f"the judge {name}", _described(one), _described(other), a, b)


def _described(judge: JudgeResults) -> dict[str, str]:
    return {**judge.identity, "rubric": judge.rubric or "none", "rubric_sha256": judge.rubric_sha256 or "none"}


def _changes(what: str, one: Mapping[str, str], other: Mapping[str, str], a: Run, b: Run) -> Iterator[str]:
    for key in sorted({*one, *other}):
        if one.get(key) != other.get(key):
            values = [_short(side.get(key, "absent")) for side in (one, other)]
            yield f"{what}: {key} is {values[0]} in {a.name}, {values[1]} in {b.name}"


def _test(test: TestSet) -> str:
    return f"{test.records} records ({_short(test.sha256)})"


def _template(test: TestSet) -> str:
    return f"{test.template} ({_short(test.template_sha256)})"


def _short(text: str) -> str:
    """A text; of a hash the beginning."""
    return text[:SHOWN] if len(text) == 64 and not set(text) - set("0123456789abcdef") else text

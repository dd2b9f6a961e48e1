"""What must be the same before two runs may be compared: test set, template, rubric, judge, measures."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from instruct.comparing.runs import flatten

SHOWN = 12  # characters of a hash


class Judged(Protocol):
    """A run as far as the guard looks at it: its name, and metrics/evaluate.json."""

    @property
    def name(self) -> str: ...
    @property
    def evaluate(self) -> Mapping[str, Any]: ...


def changes_among(runs: Sequence[Judged], scores: Collection[str]) -> list[str]:
    """What differs between the first run and any other, each line once."""
    return list(dict.fromkeys(line for run in runs[1:] for line in find_changes(runs[0], run, scores)))


def find_changes(a: Judged, b: Judged, scores: Collection[str]) -> list[str]:
    """What differs between two runs and makes `scores` incomparable, one line each; empty where all is well.

    What a run does not say of itself is a change too: two runs without a hash need not have had one test set.
    """
    runs = (a, b)
    tests = [run.evaluate["test"] for run in runs]
    lines = _silent("the test set: no hash", runs, [test.get("sha256") for test in tests], str)
    if not lines and tests[0]["sha256"] != tests[1]["sha256"]:
        lines = [f"the test set: {_test(tests[0])} in {a.name}, {_test(tests[1])} in {b.name}"]
    templates = [(test.get("template"), test.get("template_sha256")) for test in tests]
    silent = _silent("the template: no hash", runs, [digest for _, digest in templates], str)
    if not silent and templates[0] != templates[1]:
        silent = [f"the template: {_template(tests[0])} in {a.name}, {_template(tests[1])} in {b.name}"]
    lines += silent
    judges = [name for name in (*a.evaluate["judges"], *b.evaluate["judges"]) if name in scores]
    for name in dict.fromkeys(judges):
        lines += _judge_changes(name, a, b)
    # Every score that is no model's opinion is a measure of likeness; the judge `reference` is a mean of such.
    if set(scores) - ({*a.evaluate["judges"], *b.evaluate["judges"]} - {"reference"}):
        signatures = [run.evaluate["reference"].get("signatures") for run in runs]
        lines += _silent("the measure: no signature", runs, signatures, Mapping) or _changes(
            "the measure", signatures, runs
        )
    return lines


def _judge_changes(name: str, a: Judged, b: Judged) -> list[str]:
    for run, other in ((a, b), (b, a)):
        if name not in run.evaluate["judges"]:
            return [f"the judge: {name} has judged {other.name}, not {run.name}"]
    what, runs, judges = f"the judge {name}", (a, b), [run.evaluate["judges"][name] for run in (a, b)]
    identities = [judge.get("identity") for judge in judges]
    lines = _silent(f"{what}: no identity", runs, identities, Mapping) or _changes(what, identities, runs)
    # A judge without a rubric, as `reference` is, has no hash of one either.
    hashes = [judge.get("rubric_sha256") if judge.get("rubric") else "none" for judge in judges]
    rubrics = [{key: judge.get(key, "none") for key in ("rubric", "rubric_sha256")} for judge in judges]
    return lines + (_silent(f"{what}: no hash of its rubric", runs, hashes, str) or _changes(what, rubrics, runs))


def _silent(what: str, runs: Sequence[Judged], said: Sequence[Any], kind: type) -> list[str]:
    """A line that names the runs which do not say this, or say something of another kind."""
    names = [run.name for run, value in zip(runs, said, strict=True) if not (value and isinstance(value, kind))]
    return [f"{what} in {' and '.join(dict.fromkeys(names))}"] if names else []


def _changes(what: str, sides: Sequence[Mapping[str, Any]], runs: Sequence[Judged]) -> list[str]:
    one, other = map(flatten, sides)
    a, b = (run.name for run in runs)
    return [
        f"{what}: {key} is {_short(one.get(key, 'absent'))} in {a}, {_short(other.get(key, 'absent'))} in {b}"
        for key in sorted({*one, *other})
        if one.get(key) != other.get(key)
    ]


def _test(test: dict[str, Any]) -> str:
    return f"{test.get('records', '?')} records ({_short(test.get('sha256', 'no hash'))})"


def _template(test: dict[str, Any]) -> str:
    return f"{test.get('template', 'none')} ({_short(test.get('template_sha256', 'no hash'))})"


def _short(value: Any) -> str:
    """A value in words; of a hash the beginning."""
    text = str(value)
    return text[:SHOWN] if len(text) == 64 and not set(text) - set("0123456789abcdef") else text

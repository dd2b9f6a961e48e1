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
    """What differs between two runs and makes `scores` incomparable, one line each; empty where all is well."""
    lines = []
    one, other = a.evaluate["test"], b.evaluate["test"]
    if one.get("sha256") != other.get("sha256"):
        lines.append(f"the test set: {_test(one)} in {a.name}, {_test(other)} in {b.name}")
    if (one.get("template"), one.get("template_sha256")) != (other.get("template"), other.get("template_sha256")):
        lines.append(f"the template: {_template(one)} in {a.name}, {_template(other)} in {b.name}")
    judges = [name for name in (*a.evaluate["judges"], *b.evaluate["judges"]) if name in scores]
    for name in dict.fromkeys(judges):
        lines += _judge_changes(name, a, b)
    # Every score that is no model's opinion is a measure of likeness; the judge `reference` is a mean of such.
    if set(scores) - ({*a.evaluate["judges"], *b.evaluate["judges"]} - {"reference"}):
        signatures = [run.evaluate["reference"].get("signatures", {}) for run in (a, b)]
        lines += _changes("the measure", signatures[0], signatures[1], a, b)
    return lines


def _judge_changes(name: str, a: Judged, b: Judged) -> list[str]:
    sides = []
    for run, other in ((a, b), (b, a)):
        if name not in run.evaluate["judges"]:
            return [f"the judge: {name} has judged {other.name}, not {run.name}"]
        judge = run.evaluate["judges"][name]
        sides.append((judge.get("identity", {}), {key: judge.get(key, "none") for key in ("rubric", "rubric_sha256")}))
    lines = _changes(f"the judge {name}", sides[0][0], sides[1][0], a, b)
    return lines + _changes(f"the judge {name}", sides[0][1], sides[1][1], a, b)


def _changes(what: str, one: dict[str, Any], other: dict[str, Any], a: Judged, b: Judged) -> list[str]:
    one, other = flatten(one), flatten(other)
    return [
        f"{what}: {key} is {_short(one.get(key, 'absent'))} in {a.name}, {_short(other.get(key, 'absent'))} in {b.name}"
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

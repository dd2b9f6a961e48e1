"""What must be the same before two runs may be compared: test set, rubric, judge, measures, and what judges saw.

A judge's rubric shows it the task in the run's template, and a rubric of pairs the answers of the system compared with;
to a measure of an answer both are nothing. Two digests that are empty are not the same: nobody knows of what they are.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from instruct.results.runs import Run
from instruct.results.schema import REFERENCE, SIMILARITY, JudgeResults, Results, TestSet

SHOWN = 12  # characters of a hash
OF_SIMILARITY = ("exact_match", "token_f1", "rouge_l", "chrf")
"""The measures that similarity is made of."""
UNTOLD = ("quantization", "version")  # by a server whose weights are pinned

_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{12,64}")


def changes_among(runs: Sequence[Run], scores: Collection[str]) -> list[str]:
    """What differs between the first run and any other, each line once."""
    return list(dict.fromkeys(line for run in runs[1:] for line in find_changes(runs[0], run, scores)))


def find_changes(a: Run, b: Run, scores: Collection[str]) -> Iterator[str]:
    """What differs between two runs and makes `scores` incomparable, one line each; nothing if they are comparable."""
    one, other = a.results, b.results
    if one.test.sha256 != other.test.sha256:
        yield f"the test set: {_test(one.test)} in {a.name}, {_test(other.test)} in {b.name}"
    judges = dict.fromkeys(judge.name for results in (one, other) for judge in results.judges)
    for name in judges:
        if name in scores:
            yield from _judge_changes(name, a, b)
    yield from _changes("the measure", measures_of(one, scores), measures_of(other, scores), a, b)


def measures_of(results: Results, scores: Collection[str]) -> dict[str, str]:
    """The signatures of the measures that these scores are made of; a model's scores have none."""
    parts = [part for name in scores for part in (OF_SIMILARITY if name in (REFERENCE, SIMILARITY) else (name,))]
    return {name: text for name, text in results.signatures.items() if name.partition(".")[0] in parts}


def _judge_changes(name: str, a: Run, b: Run) -> Iterator[str]:
    judges = [run.results.judge(name) for run in (a, b)]
    one, other = judges
    if one is None or other is None:
        there, lacking = (b, a) if one is None else (a, b)
        yield f"the judge: {name} has judged {there.name}, not {lacking.name}"
        return
    yield from _changes(f"the judge {name}", *_with_same_weights(described(one), described(other)), a, b)
    tests = [run.results.test for run in (a, b)]
    if (one.rubric or other.rubric) and len({(test.template, test.template_sha256) for test in tests}) > 1:
        yield f"the template: {_template(tests[0])} in {a.name}, {_template(tests[1])} in {b.name}"
    if _of_pairs(one) or _of_pairs(other):
        against = [run.results.system(judge.against) for run, judge in ((a, one), (b, other))]
        answers = [{f"{side.name}'s answers by md5": side.md5} for side in against]
        yield from _changes(f"what the judge {name} compared with", answers[0], answers[1], a, b)


def _of_pairs(judge: JudgeResults) -> bool:
    """Whether a judge chose between the answers of two systems."""
    return any(one.orders is not None for one in judge.systems)


def described(judge: JudgeResults) -> dict[str, str]:
    """What tells a judge from others, its rubric among it."""
    return {**judge.identity, "rubric": judge.rubric or "none", "rubric_sha256": judge.rubric_sha256 or "none"}


def _with_same_weights(one: dict[str, str], other: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Two judges; if their digests agree, however long they are, without what only one of them tells."""
    found = [side.get("digest", "") for side in (one, other)]
    short, long = sorted((digest.removeprefix("sha256:") for digest in found), key=len)
    if not all(map(_DIGEST.fullmatch, found)) or not long.startswith(short):
        return one, other
    alone = {key for key in UNTOLD if (key in one) != (key in other)} | {"digest"}
    first, second = ({key: text for key, text in side.items() if key not in alone} for side in (one, other))
    return first, second


def _changes(what: str, one: Mapping[str, str], other: Mapping[str, str], a: Run, b: Run) -> Iterator[str]:
    for key in sorted({*one, *other}):
        if key.endswith(("digest", "sha256", "md5")) and one.get(key) == other.get(key) == "":
            yield f"{what}: {key} is empty in both {a.name} and {b.name}, so nobody knows whether it is the same"
        elif one.get(key) != other.get(key):
            values = [_short(side.get(key, "absent")) for side in (one, other)]
            yield f"{what}: {key} is {values[0]} in {a.name}, {values[1]} in {b.name}"


def _test(test: TestSet) -> str:
    return f"{test.records} records ({_short(test.sha256)})"


def _template(test: TestSet) -> str:
    return f"{test.template} ({_short(test.template_sha256)})"


def _short(text: str) -> str:
    """A text; of a hash the beginning."""
    return text[:SHOWN] if len(text) == 64 and not set(text) - set("0123456789abcdef") else text

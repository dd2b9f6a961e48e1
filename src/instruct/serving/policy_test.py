"""`instruct policy test`: recall on labelled probes, and how many of the project's own answers are blocked."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from scipy.stats import binomtest

from instruct.core.errors import DataError, InstructError
from instruct.core.files import read_text
from instruct.core.records import read_examples
from instruct.serving.policy import Policy, Side

REFERENCES = Path("data/split/test.json")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A text, whether the filter should find something in it, and whether it is a prompt or an answer."""

    text: str
    found: bool
    side: Side = "answers"
    kind: str = "all"


def read_probes(path: Path) -> list[Probe]:
    """One JSON object per line: text, found, optional side and kind; raises DataError that names the line."""
    probes = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            probes.append(_probe(line, f"{path}:{number}"))
    if not probes:
        raise DataError(f"{path}: contains no probes; write one JSON object per line, with text and found")
    return probes


def _probe(line: str, where: str) -> Probe:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON; write one object per line, with text and found") from None
    known = {"text": str, "found": bool, "side": str, "kind": str}
    right = isinstance(row, dict) and all(type(value) is known.get(name) for name, value in row.items())
    if not right or not {"text", "found"} <= set(row) or row.get("side", "answers") not in get_args(Side):
        raise DataError(f"{where}: needs text and found (true or false); side is prompts or answers, kind is a word")
    return Probe(**row)


def report(policy: Policy, probes: Sequence[Probe], references: Path = REFERENCES) -> Iterator[str]:
    """Recall and false findings by kind, each with a 95 % interval (Clopper-Pearson)."""
    hits = {id(one): bool(policy.find(one.text, one.side)) for one in probes}
    yield f"{'what':34} {'found':>11}  share  95 % interval"
    for kind in (*dict.fromkeys(one.kind for one in probes if one.kind != "all"), "all"):
        for wanted, word in ((True, "to be found"), (False, "harmless")):
            part = [one for one in probes if one.found is wanted and kind in (one.kind, "all")]
            if part:
                yield _line(f"{kind}, {word}", sum(hits[id(one)] for one in part), len(part))
    yield from _references(policy, references)


def _references(policy: Policy, path: Path) -> Iterator[str]:
    try:
        examples = read_examples(path)
    except InstructError as error:
        yield f"reference answers: not checked ({error})"
        return
    for action in ("block", "mask", "flag"):
        count = sum(
            any(found.rule.action == action for found in policy.find(one.output, "answers")) for one in examples
        )
        yield _line(f"reference answers, {action}", count, len(examples))


def _line(name: str, count: int, of: int) -> str:
    interval = binomtest(count, of).proportion_ci(0.95, "exact")
    return f"{name:34} {count:5} of {of:3}  {count / of:5.3f}  {interval.low:.3f} to {interval.high:.3f}"

"""The quality check on the command line: a line for each finding, and lengths where the tokenizer is at hand."""

from collections.abc import Container, Iterable
from itertools import count
from pathlib import Path
from typing import Any

from instruct.core.records import Example
from instruct.quality.check import QualityCheck
from instruct.quality.gates import name_record, verdicts
from instruct.quality.settings import QualityParams
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer


def check_file(
    source: Path,
    examples: Iterable[Example],
    bad: Container[int],
    params: QualityParams,
    template: Template,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """The quality report of one file, of whose records those with an index in `bad` are missing from `examples`.

    Without a tokenizer there are no lengths in tokens.
    """
    check = QualityCheck(params, template=template, tokenizer=tokenizer)
    places = (place for place in count() if place not in bad)
    for example, place in zip(examples, places, strict=False):
        check.add(example, str(source), place)
    return check.report()


def brief_lines(source: Path, report: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What is beyond its gate: warnings, or one line that there are none; and failures."""
    warnings, failures = verdicts(report)
    lines = [f"warning: {line}" for line in warnings]
    if not (warnings or failures):
        lines = [f"{source}: {len(report['findings'])} kinds of findings looked for, none beyond its gate"]
    return [*lines, f"`instruct check {source}` lists all findings"], failures


def full_lines(source: Path, report: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Every finding with its records, kinds of task, languages and lengths; and failures."""
    _, failures = verdicts(report)
    lines = [f"{source}: {report['records']} records looked at"]
    for name, finding in report["findings"].items():
        state = {"fail": "FAILS", "warn": "warning"}[finding["action"]] if finding["over"] else "ok"
        share = f"{100 * finding['share']:.2f} %, {state} (at most {100 * finding['max_share']:g} %)"
        lines.append(f"{name}: {finding['count']} records, {share}")
        lines += [f"  {name_record(record)}" for record in finding["records"]]
        if finding["records"] and finding["count"] > len(finding["records"]):
            lines.append(f"  ({len(finding['records'])} listed, set quality.listed for more)")
    for title, shares in (("kinds of task", report["kinds"]), ("instructions begin with", report["first_words"])):
        if shares:
            shown = ", ".join(f"{one['name']} {100 * one['share']:.1f} %" for one in shares[:8])
            lines.append(f"{title}: {shown}" + (f" and {len(shares) - 8} more" if len(shares) > 8 else ""))
    languages = ", ".join(f"{name} {one['count']}" for name, one in report["languages"].items())
    lines.append(f"languages of answers (unknown: short or unsure): {languages}")
    return [*lines, *_length_lines(report)], failures


def _length_lines(report: dict[str, Any]) -> list[str]:
    tokens = report.get("tokens")
    if not tokens:
        return ["lengths in tokens: the tokenizer is not here yet; `instruct fetch` the backbone, then check again"]
    lines = [f"lengths in tokens, counted in {tokens['counted']} of {tokens['records']} records:"]
    for name in ("prompt", "response", "total"):
        one = tokens[name]
        lines.append(f"  {name}: median {one['p50']}, 95 % up to {one['p95']}, mean {one['mean']:g}, most {one['max']}")
    longest = ", ".join(f"{record['id']} {record['tokens']}" for record in tokens["longest"])
    lines.append(f"  longest: {longest}")
    return lines

"""The messages of the gates about a report."""

from collections.abc import Mapping
from typing import Any

_SHOWN = 5


def verdicts(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """One message per finding over its gate: those that warn, and those that fail."""
    warnings: list[str] = []
    failures: list[str] = []
    for name, finding in report["findings"].items():
        if finding["over"]:
            message = _describe(name, finding, report["records"])
            (failures if finding["action"] == "fail" else warnings).append(message)
    return warnings, failures


def _describe(name: str, finding: Mapping[str, Any], records: int) -> str:
    first = "; ".join(name_record(record) for record in finding["records"][:_SHOWN])
    rest = finding["count"] - min(_SHOWN, len(finding["records"]))
    more = f" and {rest} more" if first and rest > 0 else ""
    return (
        f"{name}: {finding['count']} of {records} records ({100 * finding['share']:.3g} %), more than "
        f"quality.gates.{name}.max_share {finding['max_share']:g} allows"
        + (f": {first}{more}" if first else "")
        + "; correct or drop them, or change the gate"
    )


def name_record(record: Mapping[str, Any]) -> str:
    """A record's place and its finding."""
    return f'{record["part"]}[{record["index"]}] {record["id"]}: "{record["field"]}" {record["what"]}'

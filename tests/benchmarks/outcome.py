"""What a benchmark found, and on what machine: medians, spreads, and ratios only where no spread could turn them."""

import json
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

OURS = "ours"
SPREAD_OF_ONE = 0.25  # assumed where a contestant ran once, which shows no spread
LIBRARIES = ("torch", "transformers", "trl", "ctranslate2", "xllamacpp")


def summarise(measured: Mapping[str, Any], skipped: Mapping[str, str], *, records: int, tokens: int) -> dict[str, Any]:
    """The results as they are written: seconds of the whole task of so many records and tokens, rates and ratios.

    `ratios` are how many times as long as ours the others take; those that their spreads could turn are in
    `withheld`, with the reason.
    """
    contestants = {name: _times(result, records, tokens) for name, result in measured.items()}
    ours = contestants[OURS]
    ratios, withheld = {}, {}
    for name, theirs in contestants.items():
        if name == OURS:
            continue
        if could_turn(measured[OURS].seconds, measured[name].seconds):
            withheld[name] = (
                f"ours took {ours['min_s']:.2f} to {ours['max_s']:.2f} s, {name} {theirs['min_s']:.2f} to "
                f"{theirs['max_s']:.2f} s: too wide to say which is faster; run again with nothing beside it"
            )
        else:
            ratios[name] = theirs["median_s"] / ours["median_s"]
    return {
        "machine": machine(), "contestants": contestants, "ratios": ratios, "withheld": withheld,
        "skipped": dict(skipped),
    }  # fmt: skip


def _times(result: Any, records: int, tokens: int) -> dict[str, float]:
    median = statistics.median(result.seconds)
    return {
        "median_s": median,
        "min_s": min(result.seconds),
        "max_s": max(result.seconds),
        "records_per_s": records / median,
        "tokens_per_s": tokens / median,
        "peak_rss_mb": max(run["peak_rss_mb"] for run in result.runs),
        "peak_gpu_mb": max(run["peak_gpu_mb"] for run in result.runs),
    }


def could_turn(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether some run of the faster took as long as some run of the slower, so that more runs could turn the order."""
    (low, high), (other_low, other_high) = _spread(one), _spread(other)
    return low <= other_high and other_low <= high


def _spread(seconds: Sequence[float]) -> tuple[float, float]:
    if len(seconds) == 1:
        return seconds[0] * (1 - SPREAD_OF_ONE), seconds[0] * (1 + SPREAD_OF_ONE)
    return min(seconds), max(seconds)


def machine() -> dict[str, Any]:
    """Processor, instruction set, cards and versions: what the times are of."""
    import torch

    from instruct.core.processor import this_processor

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": this_processor().described,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cards": cards,
        "versions": {"python": platform.python_version(), **_versions(), **_cuda(torch)},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cuda(torch: Any) -> dict[str, str]:
    return {"cuda": torch.version.cuda} if torch.cuda.is_available() else {}


def describe_machine(found: Mapping[str, Any]) -> str:
    """`machine()` in one line."""
    cards = ", ".join(found["cards"]) or "no GPU"
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    return f"{found['processor']}, torch uses {found['instruction_set']}; {cards}; {versions}"


def print_table(summary: Mapping[str, Any], extra: Mapping[str, Mapping[str, str]]) -> None:
    """The machine, and the results as a table in Markdown; `extra` are a benchmark's own columns, by contestant."""
    print(describe_machine(summary["machine"]))
    contestants = summary["contestants"]
    if any(values["peak_gpu_mb"] for values in contestants.values()):
        extra = {"peak GPU MB": {name: f"{one['peak_gpu_mb']:.0f}" for name, one in contestants.items()}, **extra}
    head = ["contestant", "median s", "min to max s", "records/s", "tokens/s", "peak MB", "ours is", *extra]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, values in contestants.items():
        rows.append([
            name,
            f"{values['median_s']:.2f}",
            f"{values['min_s']:.2f} to {values['max_s']:.2f}",
            f"{values['records_per_s']:.2f}",
            f"{values['tokens_per_s']:.1f}",
            f"{values['peak_rss_mb']:.0f}",
            _ratio_cell(summary, name),
            *[column.get(name, "") for column in extra.values()],
        ])  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        print(f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |")
    for name, reason in summary["withheld"].items():
        print(f"no ratio for {name}: {reason}")
    for name, reason in summary["skipped"].items():
        print(f"skipped {name}: {reason}")


def training_columns(summary: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The columns of training: ms a step, the first loss, and on a GPU the share of the time in which it computes."""
    medians = {name: values["median_s"] for name, values in summary["contestants"].items()}
    columns = {
        "ms a step": {name: f"{1000 * seconds / summary['steps']:.1f}" for name, seconds in medians.items()},
        "first loss": {name: f"{result.warm_up['loss']:.4f}" for name, result in measured.items()},
    }
    if summary["busy_s"]:
        columns["GPU busy"] = {
            name: f"{busy / medians[name]:.0%}" for name, busy in summary["busy_s"].items() if name in medians
        }
    return columns


def _ratio_cell(summary: Mapping[str, Any], name: str) -> str:
    if name in summary["withheld"]:
        return "unclear"
    return f"{summary['ratios'][name]:.2f} x" if name in summary["ratios"] else ""


def write_summary(summary: Mapping[str, Any], path: Path | None) -> None:
    """Write the results where `--json` says."""
    if path:
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.stdout.flush()

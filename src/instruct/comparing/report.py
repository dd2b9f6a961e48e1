"""The report of a comparison: lines for the terminal, one Markdown file, one HTML page that needs nothing else."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import escape

from instruct.comparing.answers import Change, biggest_changes, cache_folder, read_answers
from instruct.comparing.charts import draw_charts
from instruct.comparing.compare import Comparison, side_name
from instruct.comparing.runs import WORKSPACE, Run, changed_params
from instruct.files import write_text
from instruct.plotting.results import main_judge
from instruct.plotting.stop_or_go import Row as Signal
from instruct.plotting.stop_or_go import stop_or_go

EXAMPLES = 5
TEXT = 600  # characters of a prompt or answer that the report shows


def summary_lines(comparison: Comparison) -> list[str]:
    """What the terminal says: what was compared, each score, the verdict last."""
    a, b = side_name(comparison.a), side_name(comparison.b)
    lines = [f"{a} → {b}: {comparison.records} records in {comparison.groups} groups of near-duplicates"]
    lines += [f"NOT COMPARABLE: {change}" for change in comparison.changes]
    if comparison.unmatched:
        lines.append(f"{comparison.unmatched} records are not in both and were left out")
    lines += comparison.left_out
    params = changed_params(comparison.a[0], comparison.b[0])
    lines += [f"{name}: {old} → {new}" for name, (old, new) in params.items()] or ["the parameters are the same"]
    width = max(len(score.name) for score in comparison.scores)
    for score in comparison.scores:
        left_out = f", {score.missing} without a score left out" if score.missing else ""
        verdict = "not comparable" if comparison.changes else score.in_words
        lines.append(
            f"{score.name:{width}}  {score.a:5.1f} → {score.b:5.1f}  {score.difference.mean:+5.1f} "
            f"(95 % {score.difference.low:+.1f} to {score.difference.high:+.1f}), p {score.p_value:.2g}, "
            f"corrected {score.corrected:.2g}, {score.wins} won {score.ties} tied {score.losses} lost{left_out}: "
            f"{verdict}"
        )
    return [*lines, scope_line(comparison), comparison.verdict]


def scope_line(comparison: Comparison) -> str:
    """What the verdict speaks of: these trained models, or the recipes."""
    if len(comparison.a) + len(comparison.b) > 2:
        return "This speaks of the recipes: the spread between seeds is in every interval."
    return "This speaks of these two trained models; another train.seed may move a recipe's mean (`instruct variance`)."


def write_report(comparison: Comparison, folder: Path, root: Path) -> tuple[Path, Path]:
    """Write report.md and report.html into `folder`."""
    first = comparison.scores[0].name
    a, b = comparison.a[0], comparison.b[0]
    metrics, cache = metrics_diff(a, b, root), cache_folder(root)
    charts = draw_charts(comparison)
    found = (cache.communicate()[0] or "").strip()
    answers, reasons = zip(*(read_answers(run, root, root / found if found else None) for run in (a, b)), strict=True)
    rows, problem = _read_metrics(metrics)
    values = {
        "comparison": comparison,
        "a": side_name(comparison.a),
        "b": side_name(comparison.b),
        "params": changed_params(a, b),
        "metrics": rows,
        "metrics_problem": problem,
        "scope": scope_line(comparison),
        "signals": signals_of(comparison),
        "first": first,
        "changes": {
            f"Biggest {name}": biggest_changes(a, b, first, answers, EXAMPLES, better=better)
            for name, better in (("losses", False), ("gains", True))
        },
        "missing": [reason for reason in reasons if reason],
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name == "report.html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "fence": _fence, "cut": _cut, "prompt": _prompt, "answer": _answer}
    paths = folder / "report.md", folder / "report.html"
    for path in paths:
        write_text(path, environment.get_template(path.name).render(charts=charts, **values))
    return paths


def write_refusal(a: str, b: str, reason: str, folder: Path) -> None:
    """Write report.md and report.html that say why there is no comparison, over those of one before."""
    lines = [f"## {_cell(b)} against {_cell(a)}", "**Not compared.**", _fence(reason)]
    write_text(folder / "report.md", "\n\n".join(lines) + "\n")
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(b)} against {escape(a)}</title>"
    text = f"<h1>{escape(b)} against {escape(a)}</h1><p><b>Not compared.</b></p><pre>{escape(reason)}</pre></html>\n"
    write_text(folder / "report.html", page + text)


def signals_of(comparison: Comparison) -> list[Signal]:
    """What the second side suggests to do next, with the first as the run before; nothing where it tells too little."""
    a, b = comparison.a[0], comparison.b[0]
    if not b.evaluate["judges"] or "initial_val_loss" not in b.train or not b.curves.get("val"):
        return []
    judge = main_judge(b.evaluate)
    previous = None if comparison.changes else a.evaluate["judges"].get(judge)
    return stop_or_go(b.train, b.curves["val"], b.evaluate["judges"][judge], previous)


def metrics_diff(a: Run, b: Run, root: Path) -> subprocess.Popen[str]:
    """Start `dvc metrics diff`, which takes a second or two."""
    command = [sys.executable, "-m", "dvc", "metrics", "diff", "--json", a.commit or WORKSPACE, b.commit or WORKSPACE]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _read_metrics(process: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], str]:
    """Rows of file, key, old, new and difference; and what is to be said of them: DVC goes on where a run is broken."""
    out, errors = process.communicate()
    try:
        files = json.loads(out or "{}")
    except ValueError:
        files = {}
    said = " ".join(line.removeprefix("ERROR: ").removeprefix("WARNING: ") for line in errors.split("\n") if line)
    if process.returncode:
        return [], f"dvc metrics diff failed: {said or 'no reason given'}"
    files = files.get("diff", files)
    rows = [
        {"file": file, "key": key, **{part: _number(values.get(part)) for part in ("old", "new", "diff")}}
        for file, keys in sorted(files.items())
        for key, values in sorted(keys.items())
    ]
    return rows, said or ("" if rows else "dvc metrics diff shows no difference")


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "" if value is None else str(value)


def _cell(text: Any) -> str:
    """Text for a cell of a Markdown table."""
    safe = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    return " ".join(safe.replace("|", "\\|").replace("`", "\\`").split())


def _fence(text: str) -> str:
    """Text as a fenced block of Markdown that it cannot close itself."""
    longest, run = 0, 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} […]"


def _prompt(change: Change) -> str:
    row: Mapping[str, Any] | None = change.b or change.a
    if row is None:
        return ""
    return "\n".join(part for part in (str(row.get("instruction", "")), str(row.get("input", ""))) if part)


def _answer(row: Mapping[str, Any] | None) -> str:
    return "(not at hand)" if row is None else str(row.get("response", "")) or "(empty)"

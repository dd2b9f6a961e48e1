"""The report of a comparison: lines for the terminal, one Markdown file, one HTML page that needs nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instruct.comparing.changes import Change, biggest_changes
from instruct.comparing.charts import draw_charts
from instruct.comparing.compare import Comparison, side_name
from instruct.comparing.metrics import MetricsDiff
from instruct.comparing.recorded import RECORD, SeedSpread, rate_of_seeds_alone, read_recorded
from instruct.comparing.scores import ScoreChange, points
from instruct.comparing.seeds import other_code
from instruct.comparing.tables import change_table, metric_table, value_table
from instruct.core.records import Response
from instruct.report.markdown import cell, fence, line, summary, table
from instruct.report.preferring import tuning_table
from instruct.report.report import template_environment, write_rendered
from instruct.report.stop_or_go import Movement, Signal, stop_or_go
from instruct.report.tables import signal_table
from instruct.results.headline import score_title, system_title
from instruct.results.runs import all_leak_lines, all_stale_lines, changed_params
from instruct.results.stored import Cache, read_answers

EXAMPLES = 5
TEXT = 600  # characters of a prompt or answer that the report shows
COMMENT = 60_000  # characters of report.md; GitHub takes 65,536 in a comment
LEAVABLE = ("examples", "metrics", "parameters")  # parts that report.md leaves out, in this order, until it fits


def summary_lines(comparison: Comparison, recorded: Mapping[str, SeedSpread] | None = None) -> list[str]:
    """What the terminal says: what was compared, each score, the verdict last; `recorded` is what seeds alone do."""
    a, b = side_name(comparison.a), side_name(comparison.b)
    lines = [f"{a} → {b}: {comparison.records} records in {comparison.groups} groups of near-duplicates"]
    lines += [f"NOT COMPARABLE: {change}" for change in comparison.changes]
    if comparison.unmatched:
        lines.append(f"{comparison.unmatched} records are not in both and were left out")
    lines += comparison.left_out
    lines += [f"STALE: {line}" for line in all_stale_lines((*comparison.a, *comparison.b))]
    lines += [f"LEAKED: {line}" for line in all_leak_lines((*comparison.a, *comparison.b))]
    if not comparison.against_baseline:
        params = changed_params(comparison.a[0], comparison.b[0])
        of = "" if a == comparison.a[0].name and b == comparison.b[0].name else " (in the first run of each side)"
        lines += [f"{name}: {old} → {new}{of}" for name, (old, new) in params.items()] or [
            "the parameters are the same"
        ]
    if comparison.identical:
        return [*lines, comparison.verdict]
    width = max(len(score.title) for score in comparison.scores)
    lines += [_score_line(score, width, comparison.withheld(score)) for score in comparison.scores]
    return [*lines, *about_lines(comparison, recorded or {}), comparison.verdict]


def _score_line(score: ScoreChange, width: int, withheld: str) -> str:
    left_out = f", {score.missing} without a score left out" if score.missing else ""
    adjusted = f", adjusted {score.corrected:.2g}" if score.exploratory else ""
    return (
        f"{score.title:{width}}  {score.a:5.1f} → {score.b:5.1f}  {score.difference.mean:+5.1f} "
        f"(95 % {score.difference.low:+.1f} to {score.difference.high:+.1f}), p {score.p_value:.2g}{adjusted}, "
        f"{score.wins} won {score.ties} tied {score.losses} lost{left_out}: "
        f"{'exploratory: ' if score.exploratory else ''}{withheld or score.in_words}"
    )


def about_lines(comparison: Comparison, recorded: Mapping[str, SeedSpread]) -> list[str]:
    """What the verdict is about: which score, what it could have found, and whether recipes or trained models.

    Empty if no verdict may be given.
    """
    if comparison.withheld(comparison.primary):
        return []
    return [role_line(comparison), detectable_line(comparison.primary), scope_line(comparison, recorded)]


def role_line(comparison: Comparison) -> str:
    """Which score decides, and what the p-values of the others are worth."""
    score, others = comparison.primary, len(comparison.scores) - 1
    said = f"The verdict is about {score.name} alone, whose p is not adjusted."
    if not others:
        return said
    return (
        f"{said} The other {others} are exploratory: their p is adjusted for {others} (Holm), and what they show is a "
        "hint to look into, not a result."
    )


def detectable_line(score: ScoreChange) -> str:
    """The minimum detectable difference of the primary score, for a gain that all share and for one that few bring."""
    if score.smallest is None:
        why = "it is the same on every record" if score.unchanged else "too few records, groups or seeds"
        return f"No minimum detectable difference of {score.name} can be stated: {why}."
    few = "none can be stated" if score.smallest_few is None else f"{points(score.smallest_few)} points"
    return (
        f"Minimum detectable difference of {score.name}, found 8 times of 10: {points(score.smallest)} points if all "
        f"records gain alike, {few} if only a fifth of them gain."
    )


def scope_line(comparison: Comparison, recorded: Mapping[str, SeedSpread]) -> str:
    """What the verdict speaks of: these trained models, or the recipes; and for models what seeds alone would do."""
    if comparison.of_recipes:
        said = "This speaks of the recipes: the spread between seeds is in every interval."
        code = dict.fromkeys((*other_code(comparison.a), *other_code(comparison.b)))
        mixed = f" The seeds of one side trained with different code ({', '.join(code)}), so that spread holds it too."
        return said + (mixed if code else "")
    if comparison.against_baseline:
        return "This speaks of this trained model; a verdict on its recipe takes at least two seeds."
    said = "This speaks of these trained models; a verdict on their recipes takes at least two seeds of each."
    name = comparison.primary.name
    found = recorded.get(name)
    unlike = "" if found is None else found.unlike(comparison.a[0], name)
    if found is None or unlike:
        why = (
            f"the spread of {name} in {RECORD} {unlike}" if unlike else f"no spread of {name} between seeds is recorded"
        )
        return (
            f"{said} How often runs that differ in train.seed alone would be called different is not known: {why} "
            "(`instruct variance RUN RUN --record`)."
        )
    rates = [100 * rate_of_seeds_alone(comparison.primary.error, sd) for sd in (found.seed_sd, found.seed_sd_most)]
    return (
        f"{said} Runs that differ in train.seed alone would be called different in {rates[0]:.0f} % of such pairs "
        f"({rates[1]:.0f} % at the upper limit), by the spread between {found.seeds} seeds in {RECORD}."
    )


def write_report(comparison: Comparison, folder: Path, root: Path) -> tuple[Path, Path]:
    """Write report.md and report.html into `folder`."""
    first = comparison.scores[0].name
    a, b = comparison.a[0], comparison.b[0]
    cache = Cache(root)
    metrics = None if comparison.against_baseline else MetricsDiff(a, b, root)
    charts = draw_charts(comparison)
    found, reasons = zip(*(read_answers(run, run.system, cache) for run in (a, b)), strict=True)
    answers = [{one.id: one for one in responses} for responses in found]
    rows, problem = metrics.read() if metrics else ([], "")
    signals = signals_of(comparison)
    values: dict[str, Any] = {
        "comparison": comparison,
        "title": f"{side_name(comparison.b)} against {side_name(comparison.a)}",
        "first_a": a.name,
        "first_b": b.name,
        "several": len(comparison.a) + len(comparison.b) > 2,
        "stale": all_stale_lines((*comparison.a, *comparison.b)),
        "leaks": all_leak_lines((*comparison.a, *comparison.b)),
        "about": about_lines(comparison, read_recorded(root)),
        "whose": " and ".join(dict.fromkeys(system_title(run.system) for run in (a, b))),
        "signals": signals,
        "metrics_problem": problem,
        "first": first,
        "tables": {
            "scores": change_table(comparison),
            "next": signal_table(signals),
            "params": value_table("parameter", a.name, b.name, changed_params(a, b)),
            "metrics": metric_table(a.name, b.name, rows),
            "preferring": tuning_table((*comparison.a, *comparison.b)),
        },
        "changes": {
            f"Biggest {name}": biggest_changes(comparison.a, comparison.b, first, answers, EXAMPLES, better=better)
            for name, better in (("losses", False), ("gains", True))
        },
        "missing": [reason for reason in reasons if reason],
    }
    environment = template_environment(Path(__file__).parent)
    environment.filters |= {"cell": cell, "line": line, "summary": summary, "fence": fence}
    environment.filters |= {"table": table, "cut": _cut, "prompt": _prompt, "answer": _answer}
    markdown, page = folder / "report.md", folder / "report.html"
    template = environment.get_template(markdown.name)
    texts = (template.render(left_out=LEAVABLE[:count], **values) for count in range(len(LEAVABLE) + 1))
    fitting = next((text for text in texts if len(text) <= COMMENT), "")
    write_rendered(markdown, fitting or f"## {cell(values['title'])}\n\ntoo long for a comment; see report.html\n")
    write_rendered(page, environment.get_template(page.name).render(charts=charts, **values))
    return markdown, page


def write_refusal(a: str, b: str, reason: str, folder: Path) -> None:
    """Write report.md and report.html that say why there is no comparison, over those of one before."""
    title = f"{b} against {a}"
    refused = "\n\n".join([f"## {cell(title)}", "**Not compared.**", fence(reason[:COMMENT])])
    write_rendered(folder / "report.md", f"{refused}\n")
    page = template_environment(Path(__file__).parent).get_template("refusal.html")
    write_rendered(folder / "report.html", page.render(title=title, reason=reason))


def signals_of(comparison: Comparison) -> list[Signal]:
    """What the second side's first run suggests to do next, by how the primary score moved.

    Nothing where that run tells too little. Its distance from a baseline does not count as one.
    """
    run, score = comparison.b[0], comparison.primary
    if "initial_val_loss" not in run.train or not run.curves.get("val"):
        return []
    movement = None
    if not comparison.changes and not comparison.against_baseline:
        one, verdict = score.difference, "not distinguishable" if comparison.identical else score.found
        numbers = f"{score_title(score.name)}: mean {score.a:.1f} before, {score.b:.1f} now: {one.mean:+.1f} "
        movement = Movement(verdict=verdict, numbers=f"{numbers}({one.low:+.1f} to {one.high:+.1f})")
    return stop_or_go(run, run.results.main_judge, movement)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} […]"


def _prompt(change: Change) -> str:
    row = change.b or change.a
    return row.turns[-1].question if row else ""


def _answer(row: Response | None) -> str:
    return "(not at hand)" if row is None else row.response or "(empty)"

"""Charts of two runs as SVG text for the page."""

from collections.abc import Mapping, Sequence
from math import isnan

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from instruct.comparing.changes import mean_scores
from instruct.comparing.compare import Comparison
from instruct.report.charts import BAR, INK, LINE, SYSTEMS, Points, chart, drawable

A, B = SYSTEMS[:2]
BINS = 21


def draw_charts(comparison: Comparison) -> dict[str, Markup]:
    """The charts by title; a chart for which a run left no numbers is not there."""
    charts = {
        "Difference of every score, with its 95 % interval": chart("forest", lambda axes: draw_forest(axes, comparison))
    }
    first, runs = comparison.scores[0].name, (*comparison.a, *comparison.b)
    changes = [after - before for before, after in mean_scores(comparison.a, comparison.b, first).values()]
    means = ", mean over each side's runs" if len(runs) > 2 else ""
    charts[f"Change of {first} on every record{means}"] = chart(
        "changes", lambda axes: draw_changes(axes, changes, first)
    )
    for part, label in (("val", "validation"), ("train", "training")):
        sides = {
            run.name: [(drawable(row["step"]), drawable(row["loss"])) for row in run.curves.get(part, [])]
            for run in runs
            if not run.baseline
        }
        if all(sides.values()):
            colours = {run.name: A if run in comparison.a else B for run in runs}
            gaps = sum(isnan(x + y) for points in sides.values() for x, y in points)
            title = f"Loss in {label}" + (f" ({gaps} points beyond what can be drawn left out)" if gaps else "")
            charts[title] = chart(part, lambda axes, s=sides, c=colours: draw_curves(axes, s, c))  # type: ignore[misc]
    return charts


def draw_forest(axes: Axes, comparison: Comparison) -> None:
    """One line a score: the difference and its interval, against 0; in one colour where no verdict may be given."""
    scores = comparison.scores
    withheld = comparison.withheld(comparison.primary)
    for place, score in enumerate(reversed(scores)):
        colour = A if withheld or score.verdict == "not distinguishable" else B
        axes.plot([score.difference.low, score.difference.high], [place, place], color=colour, linewidth=2, gid=LINE)
        axes.plot(score.difference.mean, place, "o", color=colour, gid="mark dot")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(scores)), [score.name for score in reversed(scores)], parse_math=False)
    axes.set_ylim(-0.5, len(scores) - 0.5)
    axes.set_xlabel("points" if withheld else "points, blue where distinguishable")


def draw_changes(axes: Axes, changes: Sequence[float], name: str) -> None:
    """How many records changed by how much."""
    axes.hist(changes, bins=BINS, range=(-100, 100), color=B)
    for bar in axes.patches:
        bar.set_gid(BAR)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(f"change of {name} (points)", parse_math=False)
    axes.set_ylabel("records")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def draw_curves(axes: Axes, sides: Mapping[str, Points], colours: Mapping[str, str]) -> None:
    """Loss by optimizer step of every run."""
    for name, points in sides.items():
        (line,) = axes.plot(*zip(*points, strict=True), color=colours[name], linewidth=1.5, gid=LINE)
        line.set_label(name if not name.startswith("_") else f" {name}")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per supervised token)")
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)

"""Charts of two runs as SVG text for the page."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from instruct.comparing.compare import Comparison, ScoreChange, side_name
from instruct.plotting.figures import BASE, TUNED, save_figure

BINS = 21


def draw_charts(comparison: Comparison) -> dict[str, Markup]:
    """The charts by title; a chart for which a run left no numbers is not there."""
    charts = {
        "Difference of every score, with its 95 % interval": _svg(lambda axes: draw_forest(axes, comparison.scores))
    }
    first = comparison.scores[0].name
    a, b = comparison.a[0], comparison.b[0]
    changes = [
        after - before
        for id_, before in a.scores[first].items()
        if before is not None and (after := b.scores[first].get(id_)) is not None
    ]
    charts[f"Change of {first} on every record"] = _svg(lambda axes: draw_changes(axes, changes, first))
    for part, label in (("val", "validation"), ("train", "training")):
        sides = {side_name([run]): run.curves.get(part, []) for run in (*comparison.a, *comparison.b)}
        if all(sides.values()):
            colours = {run.name: BASE if run in comparison.a else TUNED for run in (*comparison.a, *comparison.b)}
            charts[f"Loss in {label}"] = _svg(lambda axes, s=sides, c=colours: draw_curves(axes, s, c))  # type: ignore[misc]
    return charts


def draw_forest(axes: Axes, scores: Sequence[ScoreChange]) -> None:
    """One line a score: the difference and its interval, against 0."""
    for place, score in enumerate(reversed(scores)):
        colour = BASE if score.verdict == "not distinguishable" else TUNED
        axes.plot([score.difference.low, score.difference.high], [place, place], color=colour, linewidth=2)
        axes.plot(score.difference.mean, place, "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(scores)), [score.name for score in reversed(scores)])
    axes.set_ylim(-0.5, len(scores) - 0.5)
    axes.set_xlabel("points, blue where better or worse")


def draw_changes(axes: Axes, changes: Sequence[float], name: str) -> None:
    """How many records changed by how much."""
    axes.hist(changes, bins=BINS, range=(-100, 100), color=TUNED)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"change of {name} (points)", parse_math=False)
    axes.set_ylabel("records")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def draw_curves(axes: Axes, sides: Mapping[str, Sequence[Mapping[str, str]]], colours: Mapping[str, str]) -> None:
    """Loss by optimizer step of every run."""
    for name, rows in sides.items():
        steps, losses = ([float(row[key]) for row in rows] for key in ("step", "loss"))
        (line,) = axes.plot(steps, losses, color=colours[name], linewidth=1.5)
        line.set_label(name if not name.startswith("_") else f" {name}")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per supervised token)")
    axes.legend(frameon=False)


def _svg(draw: Callable[[Axes], None]) -> Markup:
    with tempfile.TemporaryDirectory(prefix="instruct-chart-") as folder:
        path = Path(folder) / "chart.svg"
        save_figure(path, draw)
        text = path.read_text(encoding="utf-8")
    return Markup(text[text.index("<svg") :])

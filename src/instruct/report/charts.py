"""The charts of every page: SVG elements in the page's colours, with the same bytes for the same numbers."""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from math import nan
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Stand-ins that matplotlib draws with; style.css gives each its colour, in light and in dark. The base's is first.
SYSTEMS = tuple(f"#1000{place:02d}" for place in range(10, 16))
INK, GRID = "#100001", "#100002"
VARIABLES = {INK: "var(--ink)", GRID: "var(--line)", **{one: f"var(--s{i})" for i, one in enumerate(SYSTEMS)}}
LINE, BAR = "mark line", "mark bar"
LARGEST = 1e30  # of what is drawn: matplotlib's axes overflow long before its numbers do
METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
STYLE: Any = {
    "svg.hashsalt": "instruct",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    **dict.fromkeys(("figure.facecolor", "figure.edgecolor", "axes.facecolor"), "none"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
Draw = Callable[[Axes], None]
Points = Sequence[tuple[float, float]]


def chart(name: str, draw: Draw) -> Markup:
    """One chart as an SVG element; `name` is its own on the page.

    No id of it can clash with another's: those that nothing refers to are left out, a mark's becomes its class.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        draw(figure.add_subplot())
        file = StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata=METADATA)  # `savefig` would draw it twice
    text = file.getvalue()
    text = re.sub(r"<style .*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns:xlink="[^"]*"', "", text).replace("xlink:href", "href")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", text))

    def own(found: re.Match[str]) -> str:
        id_ = found[1]
        if id_ in used:
            return f' id="{name}-{id_}"'
        return f' class="{id_.removeprefix("mark ")}"' if id_.startswith("mark ") else ""

    text = re.sub(r' id="([^"]*)"', own, text)
    return Markup(re.sub(r"(href=\"|url\()#", rf"\1#{name}-", text))


def drawable(value: float) -> float:
    """The number, or NaN, which leaves a gap in a line, if it is not finite or larger than an axis can span."""
    return value if abs(value) <= LARGEST else nan


def draw_loss(axes: Axes, train: Sequence[Mapping[str, float]], val: Sequence[Mapping[str, float]]) -> None:
    """Training and validation loss by optimizer step; a second axis shows the tokens seen if the last row has them."""
    of_val: Any = {"linewidth": 2, "marker": "o", "markersize": 4}
    axes.plot(*_columns(train, "step", "loss"), color=SYSTEMS[0], linewidth=1, label="train, each step", gid=LINE)
    axes.plot(*_columns(val, "step", "loss"), color=SYSTEMS[1], label="validation", gid=LINE, **of_val)
    _label(axes, "optimizer step", "loss (nats per supervised token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    tokens, step = (drawable(train[-1].get(name, nan)) for name in ("tokens", "step"))
    if tokens >= 1 and step >= 1:
        _add_tokens(axes, tokens / step / 1000)


def _add_tokens(axes: Axes, thousands_per_step: float) -> None:
    def to_tokens(step: Any) -> Any:
        return step * thousands_per_step

    def to_steps(thousands: Any) -> Any:
        return thousands / thousands_per_step

    top = axes.secondary_xaxis("top", functions=(to_tokens, to_steps))
    top.set_xlabel("thousand tokens seen")


def draw_learning_rate(axes: Axes, train: Sequence[Mapping[str, float]]) -> None:
    """Learning rate by optimizer step."""
    axes.plot(*_columns(train, "step", "lr"), color=SYSTEMS[1], linewidth=2, gid=LINE)
    _label(axes, "optimizer step", "learning rate")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-3, 3))


def draw_rewards(axes: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    """Rewards of both answers and their margin on held-out pairs, by optimizer step."""
    of = {"reward_chosen": "chosen answer", "reward_rejected": "rejected answer", "margin": "margin"}
    for colour, (name, label) in zip(SYSTEMS[1:], of.items(), strict=False):
        axes.plot(*_columns(rows, "step", name), color=colour, marker="o", markersize=4, label=label, gid=LINE)
    axes.axhline(0, color=INK, linewidth=0.8)
    _label(axes, "optimizer step", "reward (held-out pairs)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)


def draw_accuracy(axes: Axes, rows: Sequence[Mapping[str, float]], rules: Mapping[str, float]) -> None:
    """Reward accuracy on held-out pairs by optimizer step, in per cent, beside what simple rules reach."""
    steps, shares = _columns(rows, "step", "accuracy")
    percent = [100 * share for share in shares]
    axes.plot(steps, percent, color=SYSTEMS[1], marker="o", markersize=4, label="model", gid=LINE)
    for colour, style, (name, share) in zip(SYSTEMS[2:], ("--", ":"), rules.items(), strict=False):
        axes.axhline(100 * share, color=colour, linestyle=style, label=name, gid="mark rule")
    _label(axes, "optimizer step", "pairs told rightly (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, loc="lower right")


def draw_scores(axes: Axes, bands: Sequence[str], counts: Mapping[str, Sequence[int]], score_name: str) -> None:
    """How many answers of each system fell into each band of scores, side by side."""
    width = 0.84 / (len(counts) or 1)
    for place, (system, heights) in enumerate(counts.items()):
        lefts = [band - 0.42 + (place + 0.5) * width for band in range(len(bands))]
        bars = axes.bar(lefts, heights, width, color=SYSTEMS[place % len(SYSTEMS)], label=system)
        for bar in bars:
            bar.set_gid(f"{BAR} s{place}")
    axes.set_xticks(list(range(len(bands))), list(bands), rotation=30)
    _label(axes, f"score (0-100): {score_name}", "answers")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    if counts:
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(counts))


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)


def _columns(rows: Sequence[Mapping[str, float]], x: str, y: str) -> tuple[list[float], list[float]]:
    return [drawable(row[x]) for row in rows], [drawable(row[y]) for row in rows]

"""The figures, as SVG files with the same bytes for the same numbers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from instruct.core.files import write_atomically

BASE, SFT = "#8c8c8c", "#1f6fb4"  # told apart in grey and by the colour-blind
METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
STYLE: Any = {
    "svg.hashsalt": "instruct",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def save_figure(path: Path, draw: Callable[[Axes], None]) -> None:
    """Draw one chart and write it as SVG without metadata, so without date and address."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        draw(figure.add_subplot())
        write_atomically(path, lambda part: figure.savefig(part, format="svg", metadata=METADATA))


def draw_loss(axes: Axes, train: Sequence[Mapping[str, float]], val: Sequence[Mapping[str, float]]) -> None:
    """Training and validation loss by optimizer step, with the tokens seen on a second axis."""
    axes.plot(*_columns(train, "step", "loss"), color=BASE, linewidth=1, label="train, each step")
    axes.plot(*_columns(val, "step", "loss"), color=SFT, linewidth=2, marker="o", markersize=4, label="validation")
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("loss (nats per supervised token)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    last = train[-1]
    thousands_per_step = last["tokens"] / last["step"] / 1000

    def to_tokens(step: Any) -> Any:
        return step * thousands_per_step

    def to_steps(thousands: Any) -> Any:
        return thousands / thousands_per_step

    top = axes.secondary_xaxis("top", functions=(to_tokens, to_steps))
    top.set_xlabel("thousand tokens seen")


def draw_learning_rate(axes: Axes, train: Sequence[Mapping[str, float]]) -> None:
    """Learning rate by optimizer step."""
    axes.plot(*_columns(train, "step", "lr"), color=SFT, linewidth=2)
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-3, 3))


def draw_scores(axes: Axes, bands: Sequence[dict[str, Any]], score_name: str) -> None:
    """How many answers fell into each band of scores, by system."""
    places = range(len(bands))
    systems = [name for name in bands[0] if name != "band"]
    width = 0.84 / len(systems)
    for i, name in enumerate(systems):
        shifted = [place + width * (i - (len(systems) - 1) / 2) for place in places]
        colour = {0: BASE, len(systems) - 1: SFT}.get(i)
        axes.bar(shifted, [band[name] for band in bands], width, color=colour, label=name)
    axes.set_xticks(list(places), [b["band"] for b in bands], rotation=30)
    axes.set_xlabel(f"score (0-100): {score_name}", parse_math=False)
    axes.set_ylabel("answers")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(systems))


def _columns(rows: Sequence[Mapping[str, float]], x: str, y: str) -> tuple[list[float], list[float]]:
    return [row[x] for row in rows], [row[y] for row in rows]

import os
import re
import subprocess
import sys
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from instruct.report.charts import SYSTEMS, VARIABLES, chart, draw_learning_rate, draw_loss, draw_scores

SRC = Path(__file__).parents[2] / "src"
TRAIN = [{"step": float(i), "epoch": i / 3, "tokens": 2000.0 * i, "lr": 1e-4 / i, "loss": 3 / i} for i in (1, 2, 3)]
VAL = [{"step": 0.0, "tokens": 0.0, "loss": 3.5}, {"step": 3.0, "tokens": 6000.0, "loss": 1.25}]
BANDS = ("0-9", "10-19", "100")
COUNTS = {"base": [3, 1, 0], "sft": [0, 2, 7]}
# Draws all three charts from the values above into a folder.
SCRIPT = """
import sys
from pathlib import Path
from instruct.report.charts import chart, draw_learning_rate, draw_loss, draw_scores
train, val, bands, counts = {values!r}
draws = {{
    "loss": lambda axes: draw_loss(axes, train, val),
    "lr": lambda axes: draw_learning_rate(axes, train),
    "scores": lambda axes: draw_scores(axes, bands, counts, "similarity"),
}}
for name, draw in draws.items():
    (Path(sys.argv[1]) / name).write_text(chart(name, draw))
"""


def axes_of(draw):
    axes = Figure().add_subplot()
    draw(axes)
    return axes


def test_figures_are_the_same_bytes_in_two_processes_whatever_matplotlibrc_says(tmp_path):
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 20\nlines.linewidth: 9\naxes.facecolor: red\nsvg.fonttype: path\n"
    )
    for seed, name in enumerate(("one", "two")):
        environment = {"PYTHONPATH": str(SRC), "PYTHONHASHSEED": str(seed), "TZ": f"UTC{seed}"}
        if name == "two":
            environment["MATPLOTLIBRC"] = str(tmp_path / "matplotlibrc")
        (tmp_path / name).mkdir()
        script = SCRIPT.format(values=(TRAIN, VAL, BANDS, COUNTS))
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["loss", "lr", "scores"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_chart_has_no_date_no_creator_and_loads_nothing():
    text = chart("loss", lambda axes: draw_loss(axes, TRAIN, VAL))
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    for word in ("metadata", "date", "Matplotlib", "<image", "<script", "<style", "url(http"):
        assert word not in text
    addresses = [value for element in root.iter() for name, value in element.items() if name.endswith("href")]
    assert all(address.startswith("#loss-") for address in addresses)


def test_no_id_of_one_chart_is_in_another():
    ids = [re.findall(r' id="([^"]+)"', chart(name, lambda axes: draw_loss(axes, TRAIN, VAL))) for name in ("a", "b")]
    assert all(ids)
    assert not set(ids[0]) & set(ids[1])


def test_every_colour_is_the_pages():
    for draw in (
        lambda axes: draw_loss(axes, TRAIN, VAL),
        lambda axes: draw_learning_rate(axes, TRAIN),
        lambda axes: draw_scores(axes, BANDS, {str(place): [1, 2, 3] for place in range(len(SYSTEMS))}, "similarity"),
    ):
        text = chart("one", draw)
        assert not re.findall(r"(?:fill|stroke): #\w+", text)
        assert set(re.findall(r"var\(--\w+\)", text)) <= set(VARIABLES.values())


def test_texts_of_a_chart_stay_texts():
    root = ElementTree.fromstring(
        chart("scores", lambda axes: draw_scores(axes, BANDS, COUNTS, "judged by a<b> & $x$ through ollama"))
    )
    shown = ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "score (0-100): judged by a<b> & $x$ through ollama" in shown
    assert {"0-9", "10-19", "100", "base", "sft", "answers"} <= set(shown)


def test_train_and_validation_loss_stand_on_one_chart_with_their_numbers():
    axes = axes_of(lambda axes: draw_loss(axes, TRAIN, VAL))
    train, val = axes.get_lines()
    assert train.get_xydata().tolist() == [[1, 3], [2, 1.5], [3, 1]]
    assert val.get_xydata().tolist() == [[0, 3.5], [3, 1.25]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train, each step", "validation"]
    assert axes.get_ylim()[0] == 0


def test_the_upper_axis_of_the_loss_counts_tokens():
    axes = axes_of(lambda axes: draw_loss(axes, TRAIN, VAL))
    (top,) = axes.child_axes
    axes.figure.draw_without_rendering()
    steps, thousands = axes.get_xlim(), top.get_xlim()
    assert thousands == pytest.approx([2 * step for step in steps])  # 6000 tokens in 3 steps
    assert "thousand tokens" in top.get_xlabel()


@pytest.mark.parametrize("value", [nan, inf, -inf, 1e38, 1.7e308, 0.0, -1.0])
@pytest.mark.parametrize("column", ["step", "tokens", "loss", "lr"])
def test_no_number_of_a_curve_is_beyond_what_can_be_drawn(column, value):
    train, val = ([*rows[:-1], {**rows[-1], column: value}] for rows in (TRAIN, VAL))
    ElementTree.fromstring(chart("loss", lambda axes: draw_loss(axes, train, val)))
    ElementTree.fromstring(chart("lr", lambda axes: draw_learning_rate(axes, train)))


@pytest.mark.parametrize(
    "last", [{"tokens": nan}, {"tokens": inf}, {"tokens": 0.0}, {"step": 0.0}, {"step": nan}, None]
)
def test_without_steps_and_tokens_in_the_last_row_no_axis_counts_tokens(last):
    without = [{name: row[name] for name in ("step", "loss")} for row in TRAIN]
    train = without if last is None else [*TRAIN[:-1], {**TRAIN[-1], **last}]
    assert axes_of(lambda axes: draw_loss(axes, train, VAL)).child_axes == []


def test_the_learning_rate_is_drawn_by_step():
    (line,) = axes_of(lambda axes: draw_learning_rate(axes, TRAIN)).get_lines()
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata() == pytest.approx([1e-4, 5e-5, 1e-4 / 3])


def test_bars_are_the_counts_of_every_system_side_by_side():
    counts = {**COUNTS, "dpo": [1, 1, 1]}
    axes = axes_of(lambda axes: draw_scores(axes, BANDS, counts, "similarity"))
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == list(counts.values())
    for places in zip(*axes.containers, strict=True):
        for left, right in pairwise(places):
            assert left.get_x() + left.get_width() <= right.get_x() + 1e-9
    assert [label.get_text() for label in axes.get_xticklabels()] == list(BANDS)
    text = chart("scores", lambda axes: draw_scores(axes, BANDS, counts, "similarity"))
    assert [text.count(f'class="bar s{place}"') for place in range(3)] == [3, 3, 3]


@pytest.mark.parametrize("counts", [{}, {"base": [0, 0, 0], "sft": [0, 0, 0]}])
def test_no_score_at_all_is_an_empty_chart_and_no_error(counts):
    assert "10-19" in chart("scores", lambda axes: draw_scores(axes, BANDS, counts, "similarity"))


def test_one_step_is_enough_for_the_curves():
    ElementTree.fromstring(chart("loss", lambda axes: draw_loss(axes, TRAIN[:1], VAL[:1])))
    ElementTree.fromstring(chart("lr", lambda axes: draw_learning_rate(axes, TRAIN[:1])))

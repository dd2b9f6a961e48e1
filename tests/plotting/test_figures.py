import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from instruct.plotting.figures import draw_learning_rate, draw_loss, draw_scores, save_figure

SRC = Path(__file__).parents[2] / "src"
TRAIN = [
    {"step": str(i), "epoch": str(i / 3), "tokens": str(2000 * i), "lr": f"{1e-4 / i}", "loss": str(3 / i)}
    for i in (1, 2, 3)
]
VAL = [{"step": "0", "tokens": "0", "loss": "3.5"}, {"step": "3", "tokens": "6000", "loss": "1.25"}]
BANDS = [
    {"band": "0-9", "base": 3, "tuned": 0},
    {"band": "10-19", "base": 1, "tuned": 2},
    {"band": "100", "base": 0, "tuned": 7},
]
# Draws all three charts from the values above into a folder.
SCRIPT = """
import sys
from pathlib import Path
from instruct.plotting.figures import draw_learning_rate, draw_loss, draw_scores, save_figure
train, val, bands = {values!r}
folder = Path(sys.argv[1])
save_figure(folder / "loss.svg", lambda axes: draw_loss(axes, train, val))
save_figure(folder / "learning_rate.svg", lambda axes: draw_learning_rate(axes, train))
save_figure(folder / "scores.svg", lambda axes: draw_scores(axes, bands, "similarity"))
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
        script = SCRIPT.format(values=(TRAIN, VAL, BANDS))
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["learning_rate.svg", "loss.svg", "scores.svg"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_an_svg_has_no_date_no_creator_and_loads_nothing(tmp_path):
    path = tmp_path / "loss.svg"
    save_figure(path, lambda axes: draw_loss(axes, TRAIN, VAL))
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    for word in ("metadata", "date", "Matplotlib", "<image", "<script", "url(http"):
        assert word not in text
    addresses = [value for element in root.iter() for name, value in element.items() if name.endswith("href")]
    assert all(address.startswith("#") for address in addresses)


def test_texts_of_an_svg_stay_texts(tmp_path):
    save_figure(tmp_path / "scores.svg", lambda axes: draw_scores(axes, BANDS, "judged by a<b> & $x$ through ollama"))
    root = ElementTree.fromstring((tmp_path / "scores.svg").read_text(encoding="utf-8"))
    shown = ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "score (0-100): judged by a<b> & $x$ through ollama" in shown
    assert {"0-9", "10-19", "100", "base", "tuned", "answers"} <= set(shown)


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


def test_the_learning_rate_is_drawn_by_step():
    (line,) = axes_of(lambda axes: draw_learning_rate(axes, TRAIN)).get_lines()
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata() == pytest.approx([1e-4, 5e-5, 1e-4 / 3])


def test_bars_are_the_counts_of_both_systems_side_by_side():
    axes = axes_of(lambda axes: draw_scores(axes, BANDS, "similarity"))
    base, tuned = axes.containers
    assert [bar.get_height() for bar in base] == [3, 1, 0]
    assert [bar.get_height() for bar in tuned] == [0, 2, 7]
    for left, right in zip(base, tuned, strict=True):
        assert left.get_x() + left.get_width() <= right.get_x() + 1e-9
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0-9", "10-19", "100"]


@pytest.mark.parametrize(
    "bands", [[{"band": "0-9", "base": 0, "tuned": 0}], [{**one, "base": 0, "tuned": 0} for one in BANDS]]
)
def test_no_score_at_all_is_an_empty_chart_and_no_error(tmp_path, bands):
    save_figure(tmp_path / "scores.svg", lambda axes: draw_scores(axes, bands, "similarity"))
    assert "0-9" in (tmp_path / "scores.svg").read_text(encoding="utf-8")


def test_one_step_is_enough_for_the_curves(tmp_path):
    save_figure(tmp_path / "loss.svg", lambda axes: draw_loss(axes, TRAIN[:1], VAL[:1]))
    save_figure(tmp_path / "lr.svg", lambda axes: draw_learning_rate(axes, TRAIN[:1]))
    for name in ("loss.svg", "lr.svg"):
        ElementTree.fromstring((tmp_path / name).read_text(encoding="utf-8"))

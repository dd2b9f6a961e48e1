"""The page that `dvc plots show` writes, in a real Chromium that reaches no network."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import warm
import yaml
from report.run_folder import make_run

from instruct.core.files import write_csv
from instruct.results.runs import SCORES as SCORES_FILE

ROOT = Path(__file__).parents[2]
BASE, SFT = [10, None, 30, 80, 100, 0, 50], [60, 70, None, 40, 100, 100, 50]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
CHARTS = {"Loss", "Scores", "metrics/curves/train.csv", "metrics/curves/val.csv", "SFT model against base model"}
# Marks that can be seen, by the title of their chart: kind, and where it is drawn.
MARKS = """
Object.fromEntries(all('svg.marks').map((svg) => {
  const kinds = ['line', 'rect', 'symbol'].map((kind) => {
    const seen = [...svg.querySelectorAll(`.role-mark.mark-${kind} path, .role-scope .mark-${kind}.role-mark path`)]
    const sized = (path) => path.getBoundingClientRect().width + path.getBoundingClientRect().height > 1
    return [kind, seen.filter((path) => path.checkVisibility() && sized(path) && !path.closest('.role-legend')).length]
  })
  return [svg.querySelector('.role-title-text').textContent, Object.fromEntries(kinds)]
}))
"""


def dvc(folder, *arguments):
    done = warm.python("-m", "dvc", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_gaps(path):
    """Give the measure that DVC's charts show the scores of this module, also where there are none."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, *pair in zip(rows, BASE, SFT, strict=True):
        row |= dict(
            zip(("similarity_base", "similarity_sft"), ["" if one is None else one for one in pair], strict=True)
        )
    write_csv(path, list(rows[0]), rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, hermetic):
    """A run with the repository's own pipeline and settings of DVC."""
    folder = tmp_path_factory.mktemp("plots")
    make_run(folder, BASE, SFT)
    with_gaps(folder / SCORES_FILE)
    for name in ("dvc.yaml", "params.yaml", "models/backbones.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    dvc(folder, "init", "--no-scm", "--quiet")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots", dirs_exist_ok=True)
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    return folder


@pytest.fixture(scope="module")
def page(folder):
    vega = pytest.importorskip("vl_convert", reason="vl-convert-python is not installed: pip install -e .[dev]")
    dvc(folder, "plots", "show", "--out", "shown")
    (folder / "shown/vega.js").write_text(vega.javascript_bundle(vl_version="5.20"), encoding="utf-8")
    return folder / "shown/index.html"


def drawn(browser, page, **how):
    browser.open(page, **how)
    browser.run("(async () => { while (all('svg.marks').length < 5) await pause(50) })()")
    return browser.run(MARKS)


def test_dvc_shows_each_chart_once_and_reads_the_columns_of_the_run(folder):
    shown = json.loads(dvc(folder, "plots", "show", "--json"))
    assert shown.get("errors", []) == []
    points = {name: data[0]["content"]["data"]["values"] for name, data in shown["data"].items()}
    assert set(points) == CHARTS
    assert {Path(point["filename"]).name for point in points["Loss"]} == {"train.csv", "val.csv"}
    assert len(points["Loss"]) == 6 + 4
    assert [float(one["lr"]) for one in points["metrics/curves/train.csv"]] == pytest.approx(
        [1e-4 / i for i in range(1, 7)]
    )
    assert len({point["field"] for point in points["Scores"]}) == 2


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_chart_has_its_marks_without_network(browser, page, width, dark):
    marks = drawn(browser, page, width=width, dark=dark)
    assert len(marks) == len(CHARTS)
    bands = len({int(score // 10) for score in BASE if score is not None})
    bands += len({int(score // 10) for score in SFT if score is not None})
    assert marks["Scores"]["rect"] == bands
    both = [1 for pair in zip(BASE, SFT, strict=True) if None not in pair]
    assert next(one for title, one in marks.items() if " against " in title)["symbol"] == len(both)
    for title in ("Loss", "Learning rate", "Validation loss by tokens seen"):
        assert marks[title]["line"] >= 1, title
    assert browser.errors == []
    assert all(request.startswith("file:") for request in browser.requests)
    assert browser.run("sideways()") <= 0


def test_without_vega_and_network_the_page_says_what_to_do(browser, page):
    alone = page.parent / "alone"
    alone.mkdir(exist_ok=True)
    shutil.copy(page, alone)
    browser.open(alone / "index.html")
    assert browser.run("all('body > div').filter((one) => one.textContent.includes('make plots')).length") == len(
        CHARTS
    )

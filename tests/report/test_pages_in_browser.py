"""The three pages in a real Chromium, narrow and wide, light and dark: all that was found is there to be seen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from comparing.small_runs import commit, make_repository, write_run
from report.run_folder import make_run
from viewing.repository import Repository

import plot
from instruct.comparing.charts import BINS
from instruct.comparing.compare import compare
from instruct.comparing.report import write_refusal, write_report
from instruct.results.runs import read_run
from instruct.viewing.page import write_view

SCORES = [float(score) for score in range(3, 100, 4)]
SYSTEMS = {"base": SCORES, "sft": [min(100.0, score + 25) for score in SCORES]}


@dataclass(frozen=True)
class Shown:
    """A page with what must be seen on it: marks by selector, and rows by the name of their table."""

    path: Path
    marks: dict[str, int]
    rows: dict[str, int]


def bands(scores):
    return len({int(score // 10) for score in scores})


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {
        "run": page_of_run(folder / "run"),
        "compare": page_of_two(folder / "two"),
        "view": page_of_all(folder / "all"),
    }


def page_of_run(folder):
    folder.mkdir()
    make_run(folder, *SYSTEMS.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plot.main(Path("page.html"))
    marks = {f".bar.s{place}": bands(scores) for place, scores in enumerate(SYSTEMS.values())} | {".line": 3}
    rows = {"Scores by reference": 5, "Measures": 6, "All systems": 2, "What next": 5, "Failure modes": 5}
    return Shown(folder / "page.html", marks, rows)


def page_of_two(folder):
    root = make_repository(folder)
    write_run(root, {"similarity": SCORES})
    commit(root)
    write_run(root, {"similarity": SYSTEMS["sft"]}, params={"train.lr": 0.001})
    sides = [[read_run(name, root)] for name in ("main", "workspace")]
    comparison = compare(*sides)
    _, path = write_report(comparison, root / "report", root)
    changes = [after - before for before, after in zip(SCORES, SYSTEMS["sft"], strict=True)]
    bars, scores = np.count_nonzero(np.histogram(changes, BINS, (-100, 100))[0]), len(comparison.scores)
    return Shown(path, {".bar": bars, ".dot": scores, ".line": scores + 4}, {"Scores": scores, "parameters": 1})


def page_of_all(folder):
    repository = Repository(folder, records=12)
    repository.write(mean=50.0)
    repository.commit()
    for seed, name in enumerate(("lower-lr", "higher-lr"), start=1):
        repository.write(mean=50.0 + 10 * seed, seed=seed, lr=1e-4 * seed)
        repository.keep_as_experiment(name)
    write_view(repository.folder, folder / "build/view.html")
    return Shown(folder / "build/view.html", {}, {"All runs": 3, "What next": 5})


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["run", "compare", "view"])
def test_all_that_was_found_is_seen(browser, pages, name, width, dark):
    shown = pages[name]
    browser.open(shown.path, width=width, dark=dark)
    assert {selector: browser.run(f"seenMarks('{selector}')") for selector in shown.marks} == shown.marks
    named = "all('table').map((table) => [table.parentElement.ariaLabel ?? 'All runs', seenRows(table)])"
    rows = dict(browser.run(named))
    assert {table: rows.get(table) for table in shown.rows} == shown.rows
    if name == "view":
        assert len(browser.run("curveLines()")) == 3
        assert browser.run("all('#answers-list article').length") == 12
    assert browser.run("overflowing()") == []
    assert browser.run("sideways()") <= 0
    assert browser.run("weakTexts(4.5)") == []
    assert browser.run("repeatedIds()") == 0
    assert browser.errors == []
    assert browser.requests == [shown.path.resolve().as_uri()]


@pytest.mark.parametrize("dark", [False, True])
def test_a_refusal_is_a_page_like_the_others(browser, tmp_path, dark):
    write_refusal("a<b>", "c", "the test set: <script>alert(1)</script>", tmp_path)
    browser.open(tmp_path / "report.html", width=390, dark=dark)
    assert "<script>alert(1)</script>" in browser.run("document.querySelector('main').innerText")
    assert browser.run("overflowing()") == []
    assert browser.run("weakTexts(4.5)") == []

"""The README's headline is what the committed run found."""

import json
import re
from pathlib import Path

import pytest

from instruct.results.schema import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results():
    return load((ROOT / "metrics/evaluate.json").read_text(encoding="utf-8"), "metrics/evaluate.json")


def table_rows():
    """The cells of the table of systems, without bold marks."""
    table = re.search(r"^\| system \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    return [[cell.strip().replace("*", "") for cell in line.strip("|\n").split("|")] for line in table[1].splitlines()]


def interval(one, sign=""):
    return f"{one.mean:{sign}.1f} ({one.low:{sign}.1f} to {one.high:{sign}.1f})"


def test_the_readme_shows_the_headline_of_the_committed_metrics(results):
    """Every system's mean of each score that comes first, and the primary one's difference with its interval."""
    shown = set(re.findall(r"\d+\.\d", README))
    difference = results.headline[0].difference_of(results.primary)
    wanted = [difference.mean, difference.low, difference.high]
    wanted += [one.mean for score in results.headline for one in score.systems]
    assert {f"{abs(value):.1f}" for value in wanted if value is not None} - shown == set()


def test_each_row_of_the_readme_holds_one_systems_scores_and_difference_in_order(results):
    rows, systems = table_rows(), results.names
    assert len(rows) == len(systems)
    for row, name in zip(rows, systems, strict=True):
        scores = [next(one for one in score.systems if one.system == name) for score in results.headline]
        assert row[1 : 1 + len(scores)] == [interval(one) for one in scores], name
        if name == results.best_baseline:
            assert row[-1] == "best baseline"
            continue
        difference = results.headline[0].difference_of(name)
        said, _, p_value = row[-1].partition(", p = ")
        assert said == interval(difference, "+"), name
        assert not p_value or float(p_value) == difference.p_value


def test_the_readme_counts_the_records_that_the_run_had(results):
    train = json.loads((ROOT / "metrics/train.json").read_text(encoding="utf-8"))
    counts = [score.systems[0].scored for score in results.headline]
    assert f"{train['train']['records']} records" in README
    assert re.search(rf"answer {results.test.records} held-out\s+prompts\. {counts[0]} of these", README)
    assert re.search(rf"The other {counts[1]} are open", README)

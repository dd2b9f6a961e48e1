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
    assert f"{train['details'][0]['train']['records']} records" in README
    assert re.search(rf"answer {results.test.records} held-out\s+prompts\. {counts[0]} of these", README)
    assert re.search(rf"The other {counts[1]} are open", README)


def test_the_results_page_shows_what_the_committed_run_measured(results):
    page = (ROOT / "docs/guides/results.md").read_text(encoding="utf-8")
    train = json.loads((ROOT / "metrics/train.json").read_text(encoding="utf-8"))
    rows = dict(re.findall(r"^\| (.+?) \| (.+? \| .+?) \|$", page.split("## Ten answers")[0], re.MULTILINE))
    systems = {one.name: one for one in results.systems}
    pair = [systems["base"], systems["sft"]]
    names = {"exact match": "exact_match", "token F1": "token_f1", "ROUGE-L": "rouge_l", "chrF": "chrf", "BLEU": "bleu"}
    wanted = {shown: [f"{one.measures[name]:.1f}" for one in pair] for shown, name in names.items()}
    ended = [sum(one.stopped.get(why, 0) for why in ("end_of_text", "stop_string")) for one in pair]
    wanted["answers that ended by themselves"] = [str(count) for count in ended]
    similarity = [next(one for one in results.judges[0].systems if one.system == name) for name in ("base", "sft")]
    wanted["similarity, 95 % interval"] = [interval(one) for one in similarity]
    wanted["quartiles"] = [f"{one.q1:.0f} / {one.median:.0f} / {one.q3:.0f}" for one in similarity]
    found = {name: rows[name].split(" | ") for name in wanted}
    assert found == wanted
    loss = next(value for name, value in rows.items() if name.startswith("validation loss"))
    assert loss.split(" | ") == [f"{train['initial_val_loss']:.3f}", f"{train['best_val_loss']:.3f}"]

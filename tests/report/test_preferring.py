"""Preference tuning on the page: pairs, rewards, and what simple rules tell, where a system was made by it alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from report.run_folder import make_run, rewards_at, write_preferring

import plot
from instruct.core.errors import DataError
from instruct.report.charts import draw_accuracy, draw_rewards
from instruct.report.gather import read_finished
from instruct.report.markdown import table as as_markdown
from instruct.report.preferring import preferring_of, tuning_table

BASE, SFT, DPO = [10, 20, 30, 80, 100, 0, 50], [60, 70, 20, 40, 100, 100, 50], [70, 70, 30, 40, 100, 90, 50]


def draw(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plot.main(Path("metrics/report/index.html"))
    return folder / "metrics/report/index.html"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    make_run(folder, BASE, SFT, dpo=DPO)
    write_preferring(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return draw(folder)


def text_of(browser):
    return " ".join(browser.run("document.querySelector('#preferring').innerText").split())


def test_pairs_baselines_rewards_and_warnings_are_on_the_page(browser, page):
    browser.open(page)
    text = text_of(browser)
    for words in (
        "480 pairs on 400 prompts, source on-policy: 432 to train on, 48 held out.",
        "Records that gave no pair: no margin 30, unended 4.",
        "Pairs dropped: identical 3, leaked 2.",
        "Warning: words alone tell most pairs.",
        "Warning: the chosen answers fell <so>.",
        "held-out pairs SFT model best (step 20) last",
        "reward accuracy, % the longer answer alone 61.0, a bag of words 72.0 50.0 65.0 70.0",
        "reward margin +0.000 +0.600 +1.200",
        "log-probability of the chosen answer, per token -1.000 -1.500 -2.000",
    ):
        assert words in text, words
    assert browser.run("all('nav a').filter((one) => one.hash === '#preferring').length") == 1


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_section_is_legible_on_phones_and_screens_in_light_and_dark(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    assert browser.run("sideways()") <= 0
    assert browser.run("weakTexts(4.5)") == []
    assert browser.run("seenMarks('#preferring .line')") == 4
    assert browser.run("seenMarks('#preferring .rule')") == 2
    assert browser.errors == [] and browser.requests == [page.resolve().as_uri()]


def test_numbers_that_are_left_over_are_not_shown_without_a_tuned_system(tmp_path):
    make_run(tmp_path, BASE, SFT)
    before = draw(tmp_path).read_bytes()
    assert b"Preference tuning" not in before
    write_preferring(tmp_path)
    assert draw(tmp_path).read_bytes() == before
    assert tuning_table([read_finished(tmp_path)]) is None


def test_a_run_without_a_file_of_pairs_or_a_curve_says_so_and_draws_nothing(tmp_path):
    make_run(tmp_path, BASE, SFT, dpo=DPO)
    write_preferring(tmp_path)
    for name in ("pairs.json", "val.csv"):
        (tmp_path / "metrics/preferred" / name).unlink()
    found = preferring_of(read_finished(tmp_path))
    assert found.lines == ("metrics/preferred/pairs.json is missing, so nothing is known of the pairs.",)
    assert found.curve == []
    text = draw(tmp_path).read_text(encoding="utf-8")
    assert 'id="preferring"' in text and "reward_" not in text


@pytest.mark.parametrize("damage", ['{"best": []', "[]", '{"details": [3], "best": 4, "baselines": {"words": "no"}}'])
def test_damaged_numbers_are_one_line_or_shown_as_none(tmp_path, damage):
    make_run(tmp_path, BASE, SFT, dpo=DPO)
    write_preferring(tmp_path)
    (tmp_path / "metrics/preferred/prefer.json").write_text(damage)
    try:
        found = preferring_of(read_finished(tmp_path))
    except DataError as error:
        assert "metrics/preferred/prefer.json" in str(error) and "\n" not in str(error)
    else:
        assert [cell.text for cell in found.table.cells[0][1:]] == ["none"] * 3 and found.rules == {}


def test_a_comparison_shows_reward_accuracy_with_what_it_must_beat(folder):
    run = read_finished(folder)
    table = tuning_table([replace(run, name="tuned"), replace(run, name="plain", prefer={})])
    (row,) = table.cells
    assert [cell.text for cell in row] == ["tuned", "480", "65.0", "61.0", "72.0", "+0.600", "-1.000 → -1.500"]
    assert "tuned" in as_markdown(table)


def test_charts_draw_the_numbers_they_are_given():
    rows = [{"step": float(step), **rewards_at(step, 0.5 + step / 100, -1.0)} for step in (0, 20, 40)]
    axes = Figure().add_subplot()
    draw_rewards(axes, rows)
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["margin"] == pytest.approx(
        [a - b for a, b in zip(drawn["chosen answer"], drawn["rejected answer"], strict=True)]
    )
    axes = Figure().add_subplot()
    draw_accuracy(axes, rows, {"a bag of words": 0.72})
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {"model": pytest.approx([50, 70, 90]), "a bag of words": [72, 72]}


def test_values_that_cannot_be_drawn_leave_gaps(folder):
    run = read_finished(folder)
    wild = [{**row, "margin": value} for row, value in zip(run.rewards, (float("nan"), 1e300, 1.0), strict=True)]
    assert [row["margin"] for row in preferring_of(replace(run, rewards=wild)).curve] == [1.0]
    assert json.dumps(preferring_of(replace(run, rewards=[])).curve) == "[]"

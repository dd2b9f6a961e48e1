"""The report in a real Chromium: legible at every width, in light and in dark, and whole without scripts."""

import json
from pathlib import Path

import pytest
from report.run_folder import make_run

import plot
from instruct.results.schema import Agreement, Controls
from instruct.results.scores import Slice, SliceChange, SliceScore

SCORES = [10, None, 30, 80, 100, 0, 50], [60, 70, None, 40, 100, 100, 50]
LONG = "supercalifragilisticexpialidocious" * 4
FINDING = {"action": "warn", "count": 3, "max_share": 0.01, "over": 1, "share": 0.25, "parts": {"train": 3}}
NAMED = [{"field": "output", "id": "a2a3837f7c40", "index": 7, "part": "train", "what": f"repeats {LONG}"}]
LENGTHS = {"min": 2, "mean": 9.4, "p50": 9, "p95": 18, "max": 46}
QUALITY = {
    "records": 12,
    "gates": {"failed": 1, "warned": 1},
    "findings": {
        "contradictory_answers": {**FINDING, "records": NAMED},
        "control_characters": {**FINDING, "action": "fail", "records": []},
        "repetition": {**FINDING, "count": 0, "over": 0, "share": 0.0, "records": []},
    },
    "kinds": [{"name": "facts", "count": 12, "share": 1.0}],
    "languages": {"en": {"count": 12, "share": 1.0}},
    "tokens": {
        "tokenizer": "smollm2-135m", "template": "alpaca", "counted": 12, "records": 12, "max": 46,
        "prompt": LENGTHS, "response": LENGTHS, "total": LENGTHS,
    },
}  # fmt: skip


def mean_of(system, records, mean=None):
    return SliceScore(system=system, records=records, scored=0 if mean is None else records, mean=mean)


def change_of(count, **numbers):
    return (SliceChange(system="sft", against="base", count=count, **numbers),)


FACTS = mean_of("base", 9, 10.0), mean_of("sft", 9, 20.0)
SUMS = mean_of("base", 2, 10.0), mean_of("sft", 2)
ENDED = mean_of("base", 11, 10.0), mean_of("sft", 10, 20.0)
SLICES = (
    Slice(property="kind", value="facts", systems=FACTS, differences=change_of(9, mean=10.0, low=1.0, high=19.0)),
    Slice(property="kind", value="sums", systems=SUMS, differences=change_of(0)),
    Slice(property="stop_reason", value="end_of_text", systems=ENDED),
)
CONTROLS = Controls(fit=False, count=8, unscored=0, scores={"reference": 100.0, "echo": 98.0, "empty": 100.0})
AGREEMENT = (
    Agreement(
        first="llama", second="reference", count=14, pearson=0.5, spearman=0.25, kappa=0.125, mean_difference=-3.5
    ),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A run with everything that the page can show, and long words in it."""
    folder = tmp_path_factory.mktemp("report")
    make_run(
        folder,
        *SCORES,
        judge={"slices": SLICES, "controls": CONTROLS},
        extra={"agreement": AGREEMENT},
        instruction=LONG,
    )
    (folder / "metrics/data.json").write_text(json.dumps(QUALITY))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plot.main(*map(Path, ("metrics/report/index.html",)))
    return folder / "metrics/report/index.html"


@pytest.mark.parametrize("width", [320, 400, 768, 1000, 1400])
def test_no_width_makes_the_page_scroll_sideways(browser, page, width):
    browser.open(page, width=width)
    assert browser.run("sideways()") <= 0
    too_wide = "all('table').filter((one) => !one.closest('.wide') && one.scrollWidth > innerWidth).length"
    assert browser.run(too_wide) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(browser, page, dark):
    browser.open(page, dark=dark)
    browser.run("all('details').forEach((one) => { one.open = true })")
    assert browser.run("weakTexts(4.5)") == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_bar_and_line_is_seen(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    for place, scores in enumerate(SCORES):
        bands = {int(score // 10) for score in scores if score is not None}
        assert browser.run(f"seenMarks('.bar.s{place}')") == len(bands)
    assert browser.run("seenMarks('.line')") == 3


def test_every_section_is_reached_from_the_top(browser, page):
    browser.open(page)
    assert browser.run("all('nav a').length") >= 7
    assert browser.run("all('nav a').filter((one) => !document.querySelector(one.hash)).length") == 0
    assert browser.errors == []
    assert browser.requests == [page.resolve().as_uri()]


def test_quality_slices_controls_agreement_and_unscored_are_shown(browser, page):
    browser.open(page)
    browser.run("all('details').forEach((one) => { one.open = true })")
    text = " ".join(browser.run("document.querySelector('main').innerText").split())
    for words in (
        "loss trend falling lowest",
        "next step better judging",
        "12 records looked at. 1 gate failed.",
        "control characters 3 25.0 % 1.0 % failed",
        "contradictory answers 3 25.0 % 1.0 % warning",
        "repetition 0 1.0 % passed",
        "a2a3837f7c40 train[7] output repeats",
        "prompt 2 9 18 46",
        "facts 10.0 20.0 +10.0 +1.0 to +19.0 9",
        "sums 10.0 none none 2",
        "end of text 10.0 11 answers 20.0 10 answers",
        "Not fit to judge",
        "llama ~ reference all 0.50 0.25 none 0.12 -3.5 14",
        "r1 base, reference no number reply r1",
        "r2 sft, reference no number reply r2",
    ):
        assert words in text, words

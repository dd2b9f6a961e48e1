"""The animations of docs/: drawn from the committed run, readable, and still for readers who want no motion."""

import csv
import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "animations"
DRAWINGS = ["sft-flow", "evaluation-loop"]
SHOWN = """
[...document.querySelectorAll('text')].filter((one) => {
  for (let e = one; e.tagName !== 'svg'; e = e.parentElement) if (getComputedStyle(e).opacity < 0.5) return false
  return true
}).map((one) => {
  const {x, y, width, height} = one.getBBox()
  return {words: one.textContent, left: x, top: y, right: x + width, bottom: y + height}
})
"""
BOXES = """
[...document.querySelectorAll('SELECTOR')].map((one) => one.getBBox()).map(
  ({x, y, width, height}) => ({left: x, top: y, right: x + width, bottom: y + height}))
"""


def words_of(name):
    tree = ElementTree.parse(FOLDER / f"{name}.svg")
    return "\n".join(one.text or "" for one in tree.iter("{http://www.w3.org/2000/svg}text"))


def rows_of(path):
    with (ROOT / path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_well_formed_small_and_loads_nothing(name):
    content = (FOLDER / f"{name}.svg").read_bytes()
    assert len(content) < 100_000
    root = ElementTree.fromstring(content)
    assert root.find("{http://www.w3.org/2000/svg}title").text and root.find("{http://www.w3.org/2000/svg}desc").text
    text = content.decode("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|url\(|<script|<image|@import", text)


def test_the_flow_shows_the_losses_of_the_committed_run():
    words, train, val = words_of("sft-flow"), rows_of("metrics/curves/train.csv"), rows_of("metrics/curves/val.csv")
    assert f"{float(train[0]['loss']):.4f} over" in words
    assert f"{float(train[0]['grad_norm']):.2f}" in words
    assert f"{train[0]['tokens']} tokens in all" in words
    assert f"{float(val[0]['loss']):.4f} before, {float(val[-1]['loss']):.4f} after" in words
    assert f"step {train[-1]['step']}" in words


def test_the_loop_shows_the_scores_and_the_verdict_of_the_committed_run():
    words, results = words_of("evaluation-loop"), json.loads((ROOT / "metrics/evaluate.json").read_text("utf-8"))
    accuracy = next(one for one in results["measured"] if one["name"] == "accuracy")
    (one,) = [one for one in accuracy["differences"] if one["system"] == "sft"]
    assert f"{one['count']} closed questions" in words
    assert f"{one['mean']:+.1f} points" in words
    assert f"interval {one['low']:+.1f} to {one['high']:+.1f}" in words
    assert f"p = {one['p_value']:.2g}" in words
    assert f"{one['wins']} only the SFT model" in words and f"{one['losses']} only the base" in words
    both = [int(count) for count in re.findall(r"(\d+) both", words)]
    assert sum(both) == one["ties"]
    record = re.search(r'FOLLOWED = "(\w+)"', (FOLDER / "evaluation_loop.py").read_text("utf-8"))[1]
    (scores,) = [row for row in rows_of("metrics/scores.csv") if row["id"] == record]
    for system in ("base", one["against"], "sft"):
        assert f"similarity {float(scores[f'similarity_{system}']):.1f}" in words


@pytest.mark.parametrize("name", DRAWINGS)
def test_each_colour_of_text_is_readable_on_panel_and_paper_in_light_and_dark(name):
    style = (FOLDER / f"{name}.svg").read_text("utf-8")
    schemes = [dict(re.findall(r"--(\w+):(#\w{6})", rule)) for rule in re.findall(r":root\{(.+?)\}", style)]
    assert len(schemes) == 2
    for colours in schemes:
        for ink in ("ink", "quiet", "learnt", "good", "bad"):
            assert min(contrast(colours[ink], colours[paper]) for paper in ("paper", "panel")) >= 4.5, (ink, colours)


def contrast(a, b):
    """The contrast ratio of WCAG 2."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def at(browser, second):
    browser.run(f"document.getAnimations().forEach((a) => {{ a.pause(); a.currentTime = {second * 1000} }})")


@pytest.mark.parametrize("name", DRAWINGS)
def test_texts_stay_in_their_panels_and_apart_at_every_moment(browser, name):
    browser.open(FOLDER / f"{name}.svg")
    panels, chips = (browser.run(BOXES.replace("SELECTOR", one)) for one in (".box", ".chip"))
    counts = []
    for second in (0, 7, 11.4, 13, 23.9):
        at(browser, second)
        texts = browser.run(SHOWN)
        counts.append(len(texts))
        for text in texts:
            assert any(inside(text, panel, 6) for panel in panels), text
            touched = [chip for chip in chips if overlap(text, chip)]
            assert all(inside(text, chip, 0) for chip in touched), text
        assert [pair for pair in combinations(texts, 2) if overlap(*pair)] == []
    assert counts[0] == 0 and counts == sorted(counts)


def inside(one, box, margin):
    return (
        one["left"] >= box["left"] + margin
        and one["right"] <= box["right"] - margin
        and one["top"] >= box["top"]
        and one["bottom"] <= box["bottom"]
    )


def overlap(a, b):
    """Whether two boxes share more than the empty rim above and below letters."""
    across = min(a["right"], b["right"]) - max(a["left"], b["left"])
    down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
    return across > 1 and down > 4


@pytest.mark.parametrize("name", DRAWINGS)
def test_without_motion_the_last_frame_is_shown(browser, name):
    browser.open(FOLDER / f"{name}.svg")
    assert browser.run("document.getAnimations().length") > 5
    at(browser, 23.9)
    last = browser.run(SHOWN)
    still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    browser._call("Emulation.setEmulatedMedia", media="", features=still)
    assert browser.run("document.getAnimations().length") == 0
    assert browser.run(SHOWN) == last


@pytest.mark.slow
def test_drawing_again_gives_the_committed_bytes(results, tmp_path):
    command = [sys.executable, "docs/animations/draw.py", str(tmp_path)]
    done = subprocess.run(command, cwd=results, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in DRAWINGS:
        assert (tmp_path / f"{name}.svg").read_bytes() == (FOLDER / f"{name}.svg").read_bytes(), name

"""The README's headline is what the committed run found."""

import re
from pathlib import Path

from instruct.results.schema import load

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_headline_of_the_committed_metrics():
    """Every system's mean of each score that comes first, and the primary one's difference with its interval."""
    results = load((ROOT / "metrics/evaluate.json").read_text(encoding="utf-8"), "metrics/evaluate.json")
    shown = set(re.findall(r"\d+\.\d", (ROOT / "README.md").read_text(encoding="utf-8")))
    difference = results.headline[0].difference_of(results.primary)
    wanted = [difference.mean, difference.low, difference.high]
    wanted += [one.mean for score in results.headline for one in score.systems]
    assert {f"{abs(value):.1f}" for value in wanted if value is not None} - shown == set()

"""What simple rules tell of the pairs: a reward accuracy that does not exceed them shows no preference."""

from collections.abc import Mapping
from pathlib import Path

from instruct.core.errors import DataError
from instruct.core.files import read_json
from instruct.core.parsing import mapping

NAMES = {"longer": "the longer answer", "words": "a bag of words"}

Rules = Mapping[str, float]
"""The share of pairs in which each rule of NAMES picks the chosen answer; `words` lacks where there are too few."""


def read_rules(path: Path) -> Rules:
    """The rules from what the stage `pairs` wrote of the pairs; raises DataError if they are not there."""
    values = read_json(path)
    found = mapping(mapping(values).get("baselines"))
    known = "longer" in found and set(found) <= set(NAMES)
    if not known or not all(type(value) in (int, float) and 0 <= value <= 100 for value in found.values()):
        raise DataError(f"{path}: does not say what simple rules tell of the pairs; run the stage `pairs` again")
    return {name: round(found[name] / 100, 4) for name in NAMES if name in found}


def in_words(rules: Rules) -> str:
    """All rules in a few words: `the longer answer 0.61, a bag of words 0.72`."""
    return ", ".join(f"{NAMES[name]} {share:.2f}" for name, share in rules.items())


def hardest(rules: Rules) -> tuple[str, float]:
    """The rule that tells most pairs, and its share; where mostly the shorter answer is better, that is the rule."""
    shares = {NAMES[name]: share for name, share in rules.items()} | {"the shorter answer": 1 - rules["longer"]}
    return max(shares.items(), key=lambda item: item[1])

"""The result in words, and the score by its right name."""

from collections.abc import Mapping
from typing import Any

ALPHA = 0.05


def name_score(identity: Mapping[str, Any]) -> str:
    """What the score is: similarity to the reference, or the opinion of a named model."""
    if "score" in identity:
        return str(identity["score"])
    kind = identity.get("judge") or identity.get("server") or "a judge that left no name"
    return f"judged by {identity['model']} through {kind}" if "model" in identity else f"judged by {kind}"


def describe_difference(difference: Mapping[str, Any]) -> str:
    """One sentence: tuned against base, better, worse or not distinguishable, with interval, p and n."""
    if not difference["count"]:
        return "No record has a score for both systems, so nothing can be said."
    numbers = (
        f"{difference['mean']:+.1f} points (95 % interval {difference['low']:+.1f} to {difference['high']:+.1f}, "
        f"p = {difference['p_value']:.2g}) over {difference['count']} records: "
        f"{difference['wins']} won, {difference['ties']} tied, {difference['losses']} lost"
    )
    if difference["p_value"] > ALPHA:
        return f"Tuned and base are not distinguishable: {numbers}."
    return f"Tuned is {'better' if difference['mean'] > 0 else 'worse'} than base: {numbers}."

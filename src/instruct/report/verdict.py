"""The result in words, and systems and scores by their right names."""

from collections.abc import Mapping

from instruct.results.scores import Difference
from instruct.statistics import ALPHA

SYSTEMS = {"base": "base model", "sft": "SFT model", "dpo": "DPO model"}


def system_title(name: str) -> str:
    """A system in words; its own name where there are none for it."""
    return SYSTEMS.get(name, name)


def name_score(identity: Mapping[str, str]) -> str:
    """What the score is: similarity to the reference, or the opinion of a named model."""
    if "score" in identity:
        return identity["score"]
    kind = identity.get("judge") or identity.get("server") or "a judge that left no name"
    return f"judged by {identity['model']} through {kind}" if "model" in identity else f"judged by {kind}"


def describe_difference(one: Difference) -> str:
    """One sentence: a system against another, better, worse or not distinguishable, with interval, p and n."""
    if one.mean is None:
        return "No record has a score for both systems, so nothing can be said."
    system, against = system_title(one.system), system_title(one.against)
    numbers = (
        f"{one.mean:+.1f} points (95 % interval {one.low:+.1f} to {one.high:+.1f}, p = {one.p_value:.2g}) over "
        f"{one.count} records: {one.wins} won, {one.ties} tied, {one.losses} lost"
    )
    if one.p_value is None or one.p_value > ALPHA:
        return f"{system} and {against} are not distinguishable: {numbers}."
    return f"{system} is {'better' if one.mean > 0 else 'worse'} than {against}: {numbers}."

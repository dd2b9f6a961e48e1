"""Judges' scores by their right names."""

from collections.abc import Mapping

from instruct.results.headline import describe_difference as describe_difference
from instruct.results.headline import system_title as system_title


def name_score(identity: Mapping[str, str]) -> str:
    """What the score is: similarity to the reference, or the opinion of a named model."""
    if "score" in identity:
        return identity["score"]
    kind = identity.get("judge") or identity.get("server") or "a judge that left no name"
    return f"judged by {identity['model']} through {kind}" if "model" in identity else f"judged by {kind}"

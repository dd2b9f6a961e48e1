"""metrics/preferred/pairs.json: what pairs there are, what was dropped, and what simple rules tell of them."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rapidfuzz import fuzz

from instruct.core.held_out import prompt_of
from instruct.core.pairs import Pair
from instruct.pairs.checking import Checked
from instruct.pairs.giveaways import longer_chosen, words_accuracy

SUSPECT = 65.0  # per cent of pairs told by a simple rule beyond which reward accuracy says little
NEAR = 70.0  # median similarity of the two answers


def summarise_pairs(
    checked: Checked, train: Sequence[Pair], val: Sequence[Pair], made: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """The numbers of all pairs together; `made` says where they came from, and what was lost before the checks."""
    words = words_accuracy(checked.pairs, seed)
    alike = median(fuzz.ratio(one.output, one.rejected) for one in checked.pairs)
    found = {
        **made,
        "dropped": checked.dropped,
        "contradictory": checked.contradictory,
        "pairs": len(checked.pairs),
        "prompts": len(set(map(prompt_of, checked.pairs))),
        "train": len(train),
        "val": len(val),
        "median_alike": round(alike, 2),
        "baselines": {"longer": longer_chosen(checked.pairs)} | ({} if words is None else {"words": words}),
    }
    return {**found, "warnings": list(_warnings(found))}


def pair_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What the log says of the pairs, warnings last."""
    lost = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in found["dropped"].items() if count)
    yield f"{found['pairs']} pairs on {found['prompts']} prompts: train {found['train']}, val {found['val']}"
    if lost:
        yield f"dropped: {lost}"
    known = found["baselines"]
    rules = [f"the longer answer is the chosen one in {known['longer']:.1f} %"]
    rules += [f"a bag of words tells {known['words']:.1f} % (cross-validated)"] if "words" in known else []
    yield f"what a reward accuracy must beat: {', '.join(rules)}"
    yield from (f"warning: {warning}" for warning in found["warnings"])


def _warnings(found: Mapping[str, Any]) -> Iterator[str]:
    known = found["baselines"]
    if max(known["longer"], 100 - known["longer"]) > SUSPECT:
        side = "longer" if known["longer"] > 50 else "shorter"
        yield f"mostly the {side} answer is chosen; the model may learn length alone"
    if known.get("words", 0) > SUSPECT:
        yield "words alone tell most pairs; a reward accuracy near that shows no preference"
    if found["median_alike"] > NEAR:
        yield (
            f"the answers of a pair are much alike (median {found['median_alike']:.0f} of 100); "
            "the chosen one may become less likely too"
        )
    if found["contradictory"]:
        yield f"{found['contradictory']} pairs prefer what another pair rejects for the same prompt"

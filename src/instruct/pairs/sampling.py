"""On-policy pairs: the SFT model's own answers to the training prompts, the best of them against the worst.

An answer is scored by its check, or by its similarity to the reference answer. Nothing of val or test is read.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from instruct.checks.rules import is_right
from instruct.checks.schema import Check
from instruct.core.pairs import Pair
from instruct.core.records import Example, Response, whole_question
from instruct.pairs.settings import Rank, SampleParams

ORIGIN = "on-policy"
ENDED = ("end_of_text", "stop_string")

Similarity = Callable[[str, str], float]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores answers to training records from 0 to 100: 0 or 100 by a check, `similarity` to the reference answer."""

    rank: Rank
    checks: Mapping[str, Check]
    similarity: Similarity

    def score(self, example: Example, answer: str) -> float | None:
        """The score of an answer; None where this ranking has nothing to say of the record."""
        check = self.checks.get(example.id)
        if self.rank != "similarity" and check and not check.is_open:
            return 100.0 * is_right(check, answer, whole_question(example))
        return None if self.rank == "checks" else self.similarity(answer, example.output)


def ask_again(examples: Iterable[Example], samples: int) -> list[Example]:
    """Each example `samples` times over under ids of their own, from which their random generators are made."""
    return [replace(example, id=f"{example.id}#{i}") for example in examples for i in range(samples)]


def pair_samples(
    examples: Sequence[Example], answers: Sequence[Response], ranking: Ranking, params: SampleParams
) -> tuple[list[Pair], dict[str, int]]:
    """A pair for each example whose best and worst answer are far enough apart, and how many gave none, by reason.

    `answers` are those to `ask_again(examples)`. An answer that did not end by itself is left out: its end was never
    drawn, so neither its likelihood nor its quality is the model's. `unended` counts examples of which fewer than two
    answers ended, and `same_answers` those of which fewer than two different ones, not empty, did.
    """
    pairs = []
    without = {"unranked": 0, "unended": 0, "same_answers": 0, "no_margin": 0}
    for place, example in enumerate(examples):
        mine = answers[place * params.samples : (place + 1) * params.samples]
        ended = [one.response for one in mine if one.stop_reason in ENDED]
        different = list(dict.fromkeys(answer for answer in ended if answer.strip()))
        scores = [ranking.score(example, answer) for answer in different]
        known = [(score, answer) for score, answer in zip(scores, different, strict=True) if score is not None]
        if len(ended) < 2:
            without["unended"] += 1
        elif len(different) < 2:
            without["same_answers"] += 1
        elif not known:
            without["unranked"] += 1
        elif (best := max(known, key=_score))[0] - (worst := min(known, key=_score))[0] < params.margin:
            without["no_margin"] += 1
        else:
            pairs.append(make_pair(example, best[1], worst[1], ORIGIN))
    return pairs, without


def make_pair(example: Example, chosen: str, rejected: str, origin: str) -> Pair:
    """A pair on the prompt of an example."""
    return Pair(**{**vars(example), "output": chosen, "origin": origin, "parent": example.id}, rejected=rejected)


def _score(one: tuple[float, str]) -> float:
    return one[0]

"""The book's pairs: a server rewrites each reference answer, politely or impolitely, and the polite one is chosen.

This is the recipe of "Build a Large Language Model (From Scratch)", chapter 7 (Raschka, 2024), with a coin that has a
seed. What is wrong with its data: half of the pairs reject the very answer that fine-tuning taught, both answers are
much alike, and a few words (please, kindly) tell most pairs.
"""

from collections.abc import Sequence
from hashlib import sha256

from instruct.core.errors import DataError
from instruct.core.pairs import Pair
from instruct.core.records import Example, whole_question
from instruct.pairs.sampling import make_pair
from instruct.pairs.settings import RewriteParams
from instruct.servers.base import Ask, Request

ORIGIN = "rewrite"
QUESTION = (
    "Below are a task and its correct answer. Slightly rewrite the answer so that it is more {manner}. Keep its "
    "meaning, change as little as possible, and reply with the rewritten answer alone.\n\n"
    "Task:\n{task}\n\nAnswer:\n{answer}"
)


def pair_rewritings(
    examples: Sequence[Example], ask: Ask, params: RewriteParams, seed: int
) -> tuple[list[Pair], dict[str, int]]:
    """A pair for each example, and how many got no reply; raises DataError where these are more than allowed."""
    polite = [is_polite(example, seed) for example in examples]
    replies = ask([_request(one, kind, params, seed) for one, kind in zip(examples, polite, strict=True)])
    pairs, failed = [], 0
    for example, kind, reply in zip(examples, polite, replies, strict=True):
        text = reply.text.strip()
        if reply.problem or not text:
            failed += 1
            continue
        pairs.append(make_pair(example, *((text, example.output) if kind else (example.output, text)), ORIGIN))
    if failed > params.max_failed * len(examples):
        why = next((reply.problem for reply in replies if reply.problem), "the reply is empty")
        raise DataError(
            f"{failed} of {len(examples)} answers were not rewritten, more than pairs.rewrite.max_failed "
            f"{params.max_failed:g} allows ({why}); look at the server {params.server}"
        )
    return pairs, {"unanswered": failed}


def is_polite(example: Example, seed: int) -> bool:
    """The coin: whether the rewriting is to be the better answer; it depends on the record and the seed alone."""
    return sha256(f"{seed}\x1fpolite\x1f{example.id}".encode()).digest()[0] % 2 == 0


def _request(example: Example, polite: bool, params: RewriteParams, seed: int) -> Request:
    task = whole_question(example)
    manner = "polite" if polite else "impolite"
    text = QUESTION.format(manner=manner, task=task, answer=example.output)
    return Request(messages=(("user", text),), max_tokens=params.max_tokens, seed=seed)

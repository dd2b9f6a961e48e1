"""The mean of a score's distribution instead of its likeliest value, from the probabilities of the score's token.

It breaks ties between answers and is steadier than the likeliest score for small judges (Wang et al., 2025,
arXiv 2503.03064). It needs a score that is one token: a digit, or whole numbers with tokenizers that keep them whole.
"""

import re
from math import exp

from instruct.evaluation.judges.parse import Scale, place_of_score
from instruct.servers.base import Reply, Token

TOP = 20  # alternatives asked for; servers give at most so many
LEAST_MASS = 0.1  # of probability that must be on scores

_BYTE = re.compile(r"(?:\\|<0)x[0-9a-fA-F]{2}")
_NUMBER = re.compile(r"\s*(0|[1-9][0-9]{0,3})\s*")


def expected_score(reply: Reply, score: int, scale: Scale, *, reasoned: bool = False) -> tuple[float | None, str]:
    """The expected score on the scale, or None and why not; `score` is the one that was read from the reply.

    It is taken from the token that was read as the score, not from another mention of the same number. Tokens that are
    not a score are left out and the rest is normalised. Where a tokenizer writes numbers digit by digit the
    distribution over 0 to 100 cannot be had from one reply, so it is refused and not guessed.
    """
    place = place_of_score(reply.text, score, scale, reasoned=reasoned)
    if place is None:
        return None, f"it is not clear which token is the score {score}; use scoring: text"
    token = _token_of(reply, place, score)
    if token is None:
        return None, f"{score} is not one token of this model; use the rubric score-1-5, or scoring: text"
    weights: dict[int, float] = {}
    digits = 1
    for text, logprob in {**dict(token.top), token.text: token.logprob}.items():
        match = _NUMBER.fullmatch(text)
        if match and scale.low <= int(match[1]) <= scale.high:
            digits = max(digits, len(match[1]))
            weights[int(match[1])] = weights.get(int(match[1]), 0.0) + exp(logprob)
    if scale.high > 9 and digits == 1:
        return None, "this model writes numbers digit by digit; use the rubric score-1-5, or scoring: text"
    mass = sum(weights.values())
    if mass < LEAST_MASS:
        return None, f"only {mass:.0%} of the probability is on scores; use scoring: text"
    return sum(value * weight for value, weight in weights.items()) / mass, ""


def _token_of(reply: Reply, place: int, score: int) -> Token | None:
    r"""The token of the score at a place of the reply, if it is the score and nothing else but space.

    Tokens may hold more than the reply, such as a fence, and may spell it otherwise: bytes of an emoji as `\xf0`, or
    no blanks. So the mentions of the number are counted from the end of the reply.
    """
    tokens = reply.logprobs or ()
    said = "".join(token.text for token in tokens)
    if reply.text in said:
        said = said[: said.rindex(reply.text) + len(reply.text)]
    written, spelled = _mentions(reply.text, score), _mentions(said, score)
    if place not in written or len(spelled) < len(written):
        return None
    wanted = spelled[written.index(place) - len(written)]
    start = 0
    for token in tokens:
        if start <= wanted < start + len(token.text):
            match = _NUMBER.fullmatch(token.text)
            return token if match and int(match[1]) == score else None
        start += len(token.text)
    return None


def _mentions(text: str, score: int) -> list[int]:
    """Where a text has the number; digits in the spelling of a byte do not count."""
    text = _BYTE.sub(lambda match: "x" * len(match[0]), text)
    return [match.start() for match in re.finditer(rf"(?<!\d){score}(?!\d)", text)]

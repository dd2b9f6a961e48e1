"""A score from a judge's reply: pure, strict, and never a guess."""

import json
import re

_OF_HUNDRED = re.compile(r"/\s*100(?!\d)")
_ANY_NUMBER = re.compile(r"[-−]?\d+(?:[.,]\d+)*")


def parse_score(reply: str) -> int | None:
    """The one whole number from 0 to 100 that a judge replied with, or None.

    >>> [parse_score(r) for r in ('{"score": 85}', "Score: 85/100", "85.", "100")]
    [85, 85, 85, 100]
    >>> [parse_score(r) for r in ("about eighty", "850", "-1", "3.5", "70 or 80", '{"score": 101}', "")]
    [None, None, None, None, None, None, None]
    """
    text = reply.strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        pass
    else:
        if isinstance(value, dict):
            value = value.get("score")
        return value if type(value) is int and 0 <= value <= 100 else None
    numbers = _ANY_NUMBER.findall(_OF_HUNDRED.sub("", text))
    if len(numbers) != 1 or not re.fullmatch(r"[0-9]{1,3}", numbers[0]):
        return None
    score = int(numbers[0])
    return score if score <= 100 else None

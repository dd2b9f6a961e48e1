"""A score from a judge's reply: pure, strict, and never a guess.

A number that is not said to be the score is none: judges also write of the 3 errors they found, of the right
answer 42, or of point `1.` of their reasons. A reply that is not understood stays without a score and is counted.
"""

import json
import re
from typing import Any

LONGEST = 20_000  # characters; nothing longer is a verdict

_END_OF_THOUGHTS = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`\"#\[\]]|</?score>", re.IGNORECASE)
_SCALE = re.compile(r"\(?(?:on a scale (?:of|from)\s+)?(?<![\d.,/-])0\s*(?:-|–|to|and)\s*100(?![\d.,]*\d|\s*[/%])\)?")
_OUT_OF = r"(?:\s*/\s*100|\s+out of (?:a possible )?100)"
_OUT_OF_HUNDRED = re.compile(rf"(?<=\d){_OUT_OF}(?![.,/]?\d)")
_NUMBER = re.compile(r"[-–—−+]?\d+(?:[.,:/]\d+)*")
_BARE = re.compile(r"(100|[1-9]?[0-9])(?:\s*%| percent| points)?")
_SAID = re.compile(
    r"(?:so |thus |therefore )?,?\s*(?:"
    r"(?:(?:the|my|final|overall|total) )*(?:score|rating|grade)(?: (?:for|of) (?:the|this) (?:response|answer))?"
    r"(?: is| of| would be)?\s?[:=–—-]?"
    r"|i(?:['’]d| would| will)? (?:give|rate|score|assign|grade)"
    r"(?: (?:it|this|that|the|a|an|as|at|response|answer|score|rating|grade|of))*"
    rf") ?{_BARE.pattern}(?:\s?[-–—,;(].*| (?:because|since|as|for) .*)?",
)


def parse_score(reply: str) -> int | None:
    """The one whole number from 0 to 100 that a judge replied with, or None.

    It stands in a JSON object as `score`, alone on its line, or after words that call it the score. A fraction is
    refused, since 0.9 and even 1.0 may be on another scale; so are two numbers, and digits that are not ASCII.

    >>> [parse_score(r) for r in ('{"score": 85}', "Score: 85/100", "85.", "I give it 85 out of 100.", "**85**%")]
    [85, 85, 85, 85, 85]
    >>> [parse_score(r) for r in ("about eighty", "850", "-1", "3.5", "70 or 80", '{"score": 101}', "")]
    [None, None, None, None, None, None, None]
    >>> [parse_score(r) for r in ("The right answer is 42.", "1. It is correct", "8/10", "It has 3 errors")]
    [None, None, None, None]
    """
    if len(reply) > LONGEST:
        return None
    text = _END_OF_THOUGHTS.split(reply)[-1].strip()
    if "<think" in text.lower():
        return None  # the thoughts were cut off, so whatever stands there is not yet the verdict
    return _parse_json(text) if "{" in text else _parse_words(text)


def _parse_json(text: str) -> int | None:
    """The score of the only JSON object with a `score`, whatever stands around it."""
    decoder = json.JSONDecoder(object_pairs_hook=list)
    scores: list[Any] = []
    place = text.find("{")
    while place >= 0:
        try:
            pairs, end = decoder.raw_decode(text, place)
        except RecursionError:
            return None
        except ValueError:
            end = place + 1
        else:
            scores += [value for name, value in pairs if name.lower() == "score"]
        place = text.find("{", end)
    if len(scores) != 1:
        return None
    if isinstance(scores[0], str):
        return _parse_words(scores[0])
    return scores[0] if type(scores[0]) is int and 0 <= scores[0] <= 100 else None


def _parse_words(text: str) -> int | None:
    """The score of a reply in words, which must hold this one number only, apart from its scale."""
    text = _SCALE.sub("", _OUT_OF_HUNDRED.sub("", _MARKUP.sub("", text).lower()))
    if len(_NUMBER.findall(text)) != 1:
        return None
    for line in text.splitlines():
        line = " ".join(line.split())
        found = _BARE.fullmatch(line.rstrip(" .!"))
        for sentence in re.split(r"[.!?](?: |$)", line):
            found = found or _SAID.fullmatch(sentence.strip())
        if found:
            return int(found[1])
    return None

"""A score or a choice from a judge's reply: pure, strict, and never a guess.

A number counts only if the reply says that it is the score: judges also write of the 3 errors they found, of the right
answer 42, or of point `1.` of their reasons. A reply that is not understood stays without a score and is counted.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

LONGEST = 20_000  # characters; nothing longer is a verdict
MOST_BROKEN = 50  # objects that do not end; a reply with more of them says nothing plainly

Choice = Literal["A", "B", "tie"]

_OBJECT = re.compile(r'\{\s*["}]')
_END_OF_THOUGHTS = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_MARKS = r"(?:[*_`\"#\[\]]++|</?score>)"
_MARKUP = re.compile(rf"(?<!\d){_MARKS}|{_MARKS}(?!\d)", re.IGNORECASE)  # between two digits it would join them
_NUMBER = re.compile(r"[-–—−+]?\d+(?:[.,:/]\d+)*")
_FEW = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 10: "ten"}

_CHOSEN = re.compile(
    r"(?:(?:so|thus|therefore|overall),? )?(?:"
    r"(?:(?:the|my|final|overall) )*(?:winner|choice|verdict|answer|(?:better|best) (?:response|answer|one))"
    r"(?: is| goes to)?\s?[:=–—-]? ?)?"
    r"(?:i (?:prefer|choose|pick) )?(?:(?:the )?(?:response|answer|assistant) )?"
    r"(a|b|c|tie|both|neither|equal|draw|it is a tie|it's a tie)"
    r"(?:(?: is| was)? (?:(?:clearly|slightly|much|the) )*(?:better|best|wins|winner)(?: (?:response|answer|one))?"
    r"| are (?:equally good|equal|tied))?",
)
_TIES = frozenset({"c", "tie", "both", "neither", "equal", "draw", "it is a tie", "it's a tie"})
_NAMED = re.compile(r"\b(?:response|answer|assistant) ([ab])\b|\b(tie|equal|draw)\b")


@dataclass(frozen=True)
class Scale:
    """Whole numbers from `low` to `high`."""

    low: int = 0
    high: int = 100

    def to_hundred(self, score: float) -> float:
        """A score on this scale as one from 0 to 100.

        >>> Scale(1, 5).to_hundred(4)
        75.0
        """
        return 100.0 * (score - self.low) / (self.high - self.low)


HUNDRED = Scale()


def parse_score(reply: str, scale: Scale = HUNDRED, *, reasoned: bool = False) -> int | None:
    r"""The one whole number on the scale that a judge replied with, or None.

    It is in a JSON object as `score`, alone on its line, or after words that call it the score. 85.0 is 85, but other
    fractions are refused, since 0.9 and even 1.0 may be on another scale; so are two numbers, a comma between digits,
    and digits that are not ASCII. A `reasoned` reply may hold other numbers before its last line, and that line must
    then call its number the score.

    >>> [parse_score(r) for r in ('{"score": 85}', "Score: 85/100", "85.", "I give it 85 out of 100.", "**85**%")]
    [85, 85, 85, 85, 85]
    >>> [parse_score(r) for r in ("about eighty", "850", "-1", "3.5", "70 or 80", '{"score": 101}', "")]
    [None, None, None, None, None, None, None]
    >>> [parse_score(r) for r in ("The right answer is 42.", "1. It is correct", "8/10", "It has 3 errors")]
    [None, None, None, None]
    >>> [parse_score(r) for r in ('{"score": 85.0}', "Score: 85.0", '{"score": 85.5}', '{"score": 1.0}', "Score: 4,5")]
    [85, 85, None, None, None]
    >>> [parse_score(r, Scale(1, 5)) for r in ("4/5", "Score: 4 out of 5", '{"score": 6}', "4/10")]
    [4, 4, None, None]
    >>> parse_score("Reason: 3 of 4 are right.\nScore: 75"), parse_score("3 of 4.\nScore: 75", reasoned=True)
    (None, 75)
    """
    text = _verdict_part(reply)
    if text is None:
        return None
    if "{" in text:
        return _parse_json(text, scale)
    if reasoned and "\n" in text:
        return _parse_words(text.splitlines()[-1], scale, must_say=True)
    return _parse_words(text, scale)


def place_of_score(reply: str, score: int, scale: Scale = HUNDRED, *, reasoned: bool = False) -> int | None:
    """Where the `score` that was read from a reply begins; None where none or several fit.

    It is the one number that would be read as another score if another one were in its place.

    >>> place_of_score("5 of 5", 5, Scale(1, 5)), place_of_score("Score: 5/5", 5, Scale(1, 5))
    (None, 7)
    """
    other = scale.low if score == scale.high else scale.high
    found = []
    for match in re.finditer(rf"(?<!\d){score}(?!\d)", reply):
        changed = f"{reply[: match.start()]}{other}{reply[match.end() :]}"
        if parse_score(changed, scale, reasoned=reasoned) == other:
            found.append(match.start())
    return found[0] if len(found) == 1 else None


def parse_choice(reply: str) -> Choice | None:
    """Which of two responses a judge prefers, or None where it does not say so plainly.

    >>> [parse_choice(r) for r in ('{"winner": "A"}', "[[B]]", "[[C]]", "Response A is better than B.", "Winner: tie")]
    ['A', 'B', 'tie', 'A', 'tie']
    >>> [parse_choice(r) for r in ("A or B", "A good answer", "Response A and response B differ", '{"winner": "D"}')]
    [None, None, None, None]
    """
    text = _verdict_part(reply)
    if text is None:
        return None
    if "{" in text:
        found = _values_of(text, "winner")
        return _choice_in(found[0]) if found and len(found) == 1 and isinstance(found[0], str) else None
    return _choice_in(text)


def _verdict_part(reply: str) -> str | None:
    """The reply behind the judge's thoughts; None where they were cut off, or it is too long for a verdict."""
    if len(reply) > LONGEST:
        return None
    text = _END_OF_THOUGHTS.split(reply)[-1].strip()
    return None if "<think" in text.lower() else text


def _values_of(text: str, wanted: str) -> list[Any] | None:
    """The values of the key `wanted` in all JSON objects of a text, or None for text that no parser should eat."""
    decoder = json.JSONDecoder(object_pairs_hook=list, parse_float=str)  # 85.0 as it was written
    values: list[Any] = []
    broken = 0
    found = _OBJECT.search(text)
    while found and broken < MOST_BROKEN:
        try:
            pairs, end = decoder.raw_decode(text, found.start())
        except RecursionError:
            return None
        except ValueError:
            broken, end = broken + 1, found.start() + 1
        else:
            values += [value for name, value in pairs if name.lower() == wanted]
        found = _OBJECT.search(text, end)
    return None if found else values


def _parse_json(text: str, scale: Scale) -> int | None:
    """The score of the only JSON object with a `score`, whatever is around it."""
    scores = _values_of(text, "score")
    if not scores or len(scores) != 1:
        return None
    if isinstance(scores[0], str):
        return _parse_words(scores[0], scale)
    return scores[0] if type(scores[0]) is int and scale.low <= scores[0] <= scale.high else None


@dataclass(frozen=True)
class _Patterns:
    scale: re.Pattern[str]
    out_of: re.Pattern[str]
    bare: re.Pattern[str]
    whole: re.Pattern[str]
    said: re.Pattern[str]


@cache
def _patterns(scale: Scale) -> _Patterns:
    low, high = scale.low, scale.high
    named = f"{high}|{_FEW[high]}" if high in _FEW else f"{high}"
    numbers = "|".join(str(number) for number in range(high, low - 1, -1))
    percent = r"\s*%| percent|" if (low, high) == (0, 100) else ""
    whole = "[1-9][0-9]{0,2}" if low else "0|[2-9]|[1-9][0-9]{1,2}"
    bare = rf"({numbers})(?:{percent} points)?"
    return _Patterns(
        scale=re.compile(
            rf"\(?(?:on a scale (?:of|from)\s+)?(?<![\d.,/-]){low}\s*(?:-|–|to|and)\s*{high}(?![\d.,]*\d|\s*[/%])\)?"
        ),
        out_of=re.compile(rf"(?<=\d)(?:\s*/\s*{high}|\s+out of (?:a possible )?(?:{named}))(?![.,/]?\d)"),
        bare=re.compile(bare),
        # Written as a decimal; 1.0 may be the best score of another scale, so a scale that begins at 0 has no 1.0.
        whole=re.compile(rf"(?<![\d.,:/+–—−-])({whole})\.0{{1,3}}(?![.,:/]*\d)"),
        said=re.compile(
            r"(?:so |thus |therefore )?,?\s*(?:"
            r"(?:(?:the|my|final|overall|total) )*(?:score|rating|grade)"
            r"(?: (?:for|of) (?:the|this) (?:response|answer))?(?: is| of| would be)?\s?[:=–—-]?"
            r"|i(?:['’]d| would| will)? (?:give|rate|score|assign|grade)"
            r"(?: (?:it|this|that|the|a|an|as|at|response|answer|score|rating|grade|of))*"
            rf") ?{bare}(?:\s?[-–—,;(](?!\d).*| (?:because|since|as|for) .*)?",
        ),
    )


def _parse_words(text: str, scale: Scale, *, must_say: bool = False) -> int | None:
    """The score of a reply in words, which must hold this one number only, apart from its scale."""
    patterns = _patterns(scale)
    text = patterns.scale.sub("", patterns.out_of.sub("", _MARKUP.sub("", text).lower()))
    text = patterns.whole.sub(r"\1", text)
    if len(_NUMBER.findall(text)) != 1:
        return None
    for line in text.splitlines():
        line = " ".join(line.split())
        found = None if must_say else patterns.bare.fullmatch(line.rstrip(" .!"))
        for sentence in re.split(r"[.!?](?: |$)", line):
            found = found or patterns.said.fullmatch(sentence.strip())
        if found:
            return int(found[1])
    return None


def _choice_in(text: str) -> Choice | None:
    text = re.sub(r" than [^.!?\n]*", "", _MARKUP.sub("", text).lower())
    found = {_chosen(line) for line in re.split(r"\n|[.!?](?: |$)", text)} - {None}
    named = {_letter(one) for pair in _NAMED.findall(text) for one in pair if one}
    if len(found) != 1 or len(named | found) != 1:
        return None  # it says two things, or speaks of the other one as well
    return found.pop()


def _chosen(sentence: str) -> Choice | None:
    match = _CHOSEN.fullmatch(" ".join(sentence.split()).rstrip(" .!,;:"))
    return _letter(match[1]) if match else None


def _letter(word: str) -> Choice:
    if word in _TIES:
        return "tie"
    return "A" if word == "a" else "B"

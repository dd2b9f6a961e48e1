"""Numbers and their units in a text."""

import re
from dataclasses import dataclass
from decimal import Decimal

from instruct.checks.units import A_UNIT, CURRENCIES, CURRENCY_BEFORE, spell_symbols, unit_after
from instruct.checks.words import clean

_SMALL = """
zero one two three four five six seven eight nine ten
eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
"""
_TENS = """
twenty thirty forty fifty sixty seventy eighty ninety
"""
_WORTH = {word: i for i, word in enumerate(_SMALL.split())}
_WORTH |= {word: 10 * (i + 2) for i, word in enumerate(_TENS.split())}
_SCALE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_IN_WORDS = re.compile(
    rf"\b(?:{'|'.join([*_WORTH, *_SCALE])})\b(?:[ -]+(?:and +)?(?:{'|'.join([*_WORTH, *_SCALE])})\b){{0,20}}",
    re.IGNORECASE,
)
_SCALED = re.compile(
    rf"(?<![\w.,/])(\d{{1,3}}(?:,\d{{3}}){{1,5}}|\d{{1,15}}(?:\.\d{{1,15}})?) ({'|'.join(_SCALE)})\b", re.IGNORECASE
)
_MINUS = re.compile(r"\b(?:minus|negative) +(?=\d)")
_MINUEND = re.compile(r"\d\S*(?: (?!is\b|are\b|was\b|equals\b)[a-z°%]+)? $")
_FAR_MINUS = re.compile(r"(?<![\w.)])-([$€£¥₹])(?=\d)|(?<==)\s*-\s+(?=\d)")  # as in "-$5" and "= - 5"
_LIST = re.compile(r"(?<![\w.,/])(?!\d{1,3}(?:,\d{3})+(?!,?\d))\d+(?:,\d+){2,}(?!\w)")
_START = r"(?<![\w.,/^])-?"
# A single comma that does not part thousands is a decimal comma; what has more points or commas is not a number.
_DIGITS = re.compile(
    rf"(?P<mixed>{_START}\d+ \d+/\d+)|(?P<fraction>{_START}\d+/\d+)"
    rf"|(?P<plain>{_START}(?:[1-9]\d{{0,2}}(?:,\d{{3}})+(?:\.\d+)?|\d+(?:[.,]\d+)?))(?![\d^]|[.,]\d)"
)
_MONTHS = """
january february march april may june july august september october november december
"""
_MONTH = "|".join(rf"{name}|{name[:3]}\.?" for name in _MONTHS.split())
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_FULL_DATE = re.compile(rf"\b(?:({_MONTH}) {_DAY}|{_DAY} (?:of )?({_MONTH}))(?:, ?| )(?=\d{{4}}\b)", re.IGNORECASE)
_OPERATORS = re.compile(
    r"\s*(?:[+×x*÷/=]|-(?=.*(?:=|\bis\b|\bequals?\b))|plus|minus|times|divided|multiplied|equals?|is\b|and that)"
)
_SIGNS = r"(?:[+×*÷]|x|plus\b|minus\b|times\b|(?:divided|multiplied) by\b)"
_SIGN_AFTER = re.compile(rf"\s*(?:(?!{_SIGNS})[a-z%]+\s+)?{_SIGNS}\s*[({CURRENCIES}]*-?\d")
_SIGN_BEFORE = re.compile(rf"[\d)](?:\s*[a-z%]+)?\s*{_SIGNS}\s*[({CURRENCIES}]*$")
_CLAIM_BEFORE = re.compile(
    rf"(?:(?:(?<=[^.?!] )(?:is|are|was|were|equals?)|\bit's)\s+(?:(?:about|only|the number)\s+)?|=\s*)[{CURRENCIES}]?$"
)
_LISTED_AFTER = re.compile(r"\s*(?:,|and\b)\s*-?\d")
_WINDOW = 80  # characters before and after a number in which its sign, unit, operator and verb are


@dataclass(frozen=True)
class Number:
    """One number of a text: its value, its spelling and its normalised unit.

    `end` is where it ends in the text in digits. It is `in_sum` if an operator or "is" follows, an `operand` if an
    operator is on either side, and `stated` if it follows "is", "=" or the like and does not begin a list.
    """

    value: float
    text: str
    unit: str
    end: int
    in_sum: bool
    operand: bool
    stated: bool


def numbers_of(text: str) -> list[Number]:
    """All numbers in their order, in digits, as fractions or in words.

    >>> [(one.value, one.unit) for one in numbers_of("Twenty-five feet, or $1,250.50, or 2 1/2 square meters")]
    [(25.0, 'feet'), (1250.5, 'dollars'), (2.5, 'square meters')]
    """
    plain = in_digits(text)
    found = []
    for match in _DIGITS.finditer(plain):
        before = _before(match)
        after = plain[match.end() : match.end() + _WINDOW]
        currency = CURRENCY_BEFORE.search(before)
        found.append(
            Number(
                value=_value(match),
                text=_spelling(match),
                unit=unit_after(f"{currency[0]} {after}" if currency else after),
                end=match.end(),
                in_sum=bool(_OPERATORS.match(after)),
                operand=bool(_SIGN_AFTER.match(after) or _SIGN_BEFORE.search(before)),
                stated=bool(_CLAIM_BEFORE.search(before)) and not _LISTED_AFTER.match(after),
            )
        )
    return found


def in_digits(text: str) -> str:
    """The text in lower case, its numbers in digits with signs: "minus five" is "-5", "7 million" is "7000000"."""
    plain = _SCALED.sub(lambda match: _scaled(match[1], match[2].casefold()), clean(text))
    plain = spell_symbols(_IN_WORDS.sub(lambda match: str(_worth(match[0].casefold())), plain)).casefold()
    plain = _MINUS.sub(lambda match: match[0] if _MINUEND.search(_before(match)) else "-", plain)
    plain = _FAR_MINUS.sub(lambda match: f"{match[1] or ''}-", plain)
    return _LIST.sub(lambda match: match[0].replace(",", ", "), plain)


def with_ones(text: str) -> str:
    """The text with "1" for "a" before a unit, as in "How many minutes are in an hour?"."""
    return A_UNIT.sub("1 ", text)


def without_days(text: str) -> str:
    """The text with only month and year of its full dates.

    >>> without_days("It fell on November 9, 1989.")
    'It fell on November 1989.'
    """
    return _FULL_DATE.sub(lambda match: f"{match[1] or match[2]} ", text)


def _before(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - _WINDOW) : match.start()]


def _spelling(match: re.Match[str]) -> str:
    """A number without commas between thousands, and with a decimal point."""
    text = match[0]
    return text.replace(",", "" if re.match(r"-?[1-9]\d{0,2}(?:,\d{3})+(?!\d)", text) else ".")


def _value(match: re.Match[str]) -> float:
    text = _spelling(match)
    if match["plain"] is not None:
        return float(text)
    whole, _, fraction = text.rpartition(" ")
    top, bottom = (float(part) for part in fraction.split("/"))
    if bottom == 0:
        return float("inf")
    part = top / bottom
    return part if not whole else (float(whole) - part if whole.startswith("-") else float(whole) + part)


def _scaled(number: str, scale: str) -> str:
    value = Decimal(number.replace(",", "")) * _SCALE[scale]
    return f"{value:f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def _worth(phrase: str) -> int:
    total = part = 0
    for word in re.split(r"[ -]+", phrase):
        if word in _WORTH:
            part += _WORTH[word]
        elif word == "hundred":
            part = max(part, 1) * 100
        elif word in _SCALE:
            total, part = total + max(part, 1) * _SCALE[word], 0
    return total + part

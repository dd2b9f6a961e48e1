"""Numbers and their units in a text."""

import re
from dataclasses import dataclass

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
_SCALE = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_IN_WORDS = re.compile(
    rf"\b(?:{'|'.join([*_WORTH, *_SCALE])})\b(?:[ -]+(?:and +)?(?:{'|'.join([*_WORTH, *_SCALE])})\b)*"
)
_DIGITS = re.compile(
    r"(?P<mixed>(?<![\w.,/])-?\d+ \d+/\d+)|(?P<fraction>(?<![\w.,/])-?\d+/\d+)"
    r"|(?P<plain>(?<![\w.,/])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)"
)
_UNITS = {
    "meters": "m meter meters metre metres",
    "centimeters": "cm centimeter centimeters centimetre centimetres",
    "millimeters": "mm millimeter millimeters millimetre millimetres",
    "kilometers": "km kilometer kilometers kilometre kilometres",
    "inches": "in inch inches",
    "feet": "ft foot feet",
    "yards": "yd yard yards",
    "miles": "mi mile miles",
    "grams": "g gram grams",
    "milligrams": "mg milligram milligrams",
    "kilograms": "kg kilogram kilograms kilo kilos",
    "metric tons": "ton tons tonne tonnes t",
    "pounds": "lb lbs pound pounds",
    "ounces": "oz ounce ounces",
    "liters": "l liter liters litre litres",
    "milliliters": "ml milliliter milliliters millilitre millilitres",
    "centiliters": "cl centiliter centiliters centilitre centilitres",
    "gallons": "gallon gallons",
    "quarts": "quart quarts",
    "pints": "pint pints",
    "cups": "cup cups",
    "tablespoons": "tablespoon tablespoons tbsp",
    "teaspoons": "teaspoon teaspoons tsp",
    "celsius": "c celsius centigrade",
    "fahrenheit": "f fahrenheit",
    "kelvins": "k kelvin kelvins",
    "seconds": "s sec second seconds",
    "minutes": "min minute minutes",
    "hours": "h hr hour hours",
    "days": "day days",
    "weeks": "week weeks",
    "months": "month months",
    "years": "year years",
    "centuries": "century centuries",
    "percent": "% percent percents",
    "dollars": "$ dollar dollars",
    "cents": "¢ cent cents",
    "euros": "€ euro euros",
    "newtons": "n newton newtons",
    "hectares": "ha hectare hectares",
    "degrees": "° degree degrees",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_AFTER = re.compile(
    r"\s*(?:(us|square|cubic|metric|sq)\.?\s+)?(?:(°|degrees?)\s*)?([a-z]+|%|\$|€|¢)?(?:\s*(²|³)|\s*/\s*(s)\b|\s+per\s+(second))?"
)
_OPERATORS = re.compile(r"\s*(?:[+×x*÷/=-]|plus|minus|times|divided|multiplied|equals?|is\b|and that)")


@dataclass(frozen=True)
class Number:
    """One number of a text: its value, its spelling, its normalised unit, and whether an operator follows."""

    value: float
    text: str
    unit: str
    in_sum: bool


def numbers_of(text: str) -> list[Number]:
    """All numbers in their order, in digits, as fractions or in words.

    >>> [(one.value, one.unit) for one in numbers_of("Twenty-five feet, or $1,250.50, or 2 1/2 square meters")]
    [(25.0, 'feet'), (1250.5, 'dollars'), (2.5, 'square meters')]
    """
    plain = _spell_out(clean(text).casefold())
    found = []
    for match in _DIGITS.finditer(plain):
        after = plain[match.end() :]
        sign = plain[: match.start()].rstrip()[-1:]
        unit = _UNIT_OF[sign] if sign in ("$", "€") else _unit_after(after)
        found.append(Number(_value(match), match[0].replace(",", ""), unit, bool(_OPERATORS.match(after))))
    return found


def _value(match: re.Match[str]) -> float:
    text = match[0].replace(",", "")
    if match["plain"] is not None:
        return float(text)
    whole, _, fraction = text.rpartition(" ")
    top, bottom = (float(part) for part in fraction.split("/"))
    if bottom == 0:
        return float("inf")
    part = top / bottom
    return part if not whole else (float(whole) - part if whole.startswith("-") else float(whole) + part)


def _unit_after(after: str) -> str:
    """The unit after a number, or "" if it is unknown."""
    match = _AFTER.match(after)
    assert match is not None
    form, degree, word, power, *speed = match.groups()
    unit = _UNIT_OF.get(word or "", "degrees" if degree else "")
    if degree and unit not in ("celsius", "fahrenheit"):
        return "degrees"
    if unit and (form in ("square", "sq") or power == "²"):
        return f"square {unit}"
    if unit and (form == "cubic" or power == "³"):
        return f"cubic {unit}"
    return f"{unit} per second" if unit and any(speed) else unit


def canonical_unit(unit: str) -> str:
    """The normalised spelling of a check's unit; unchanged if the table lacks it."""
    return _unit_after(f" {unit.casefold()}") or unit.casefold()


def _spell_out(text: str) -> str:
    """Numbers in words as digits."""
    return _IN_WORDS.sub(lambda match: str(_worth(match[0])), text)


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

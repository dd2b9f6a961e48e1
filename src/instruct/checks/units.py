"""Units of measure: their names, their symbols, and the one that follows a number."""

import re

from instruct.checks.words import clean

_UNITS = {
    "meters": "m meter meters metre metres",
    "inches": "in inch inches",
    "feet": "ft foot feet",
    "yards": "yd yard yards",
    "miles": "mi mile miles",
    "grams": "g gram grams",
    "kilograms": "kilo kilos",
    "metric tons": "ton tons tonne tonnes t",
    "pounds": "lb lbs pound pounds gbp £",
    "ounces": "oz ounce ounces",
    "liters": "l liter liters litre litres",
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
    "dollars": "$ dollar dollars usd",
    "cents": "¢ cent cents",
    "euros": "€ euro euros eur",
    "pence": "pence",
    "yen": "¥ yen jpy",
    "rupees": "₹ rupee rupees inr",
    "yuan": "yuan cny rmb",
    "francs": "franc francs chf",
    "kronor": "krona kronor sek",
    "norwegian kroner": "nok",
    "danish kroner": "dkk",
    "canadian dollars": "cad",
    "australian dollars": "aud",
    "newtons": "n newton newtons",
    "watts": "w watt watts",
    "volts": "volt volts",
    "amperes": "ampere amperes amp amps",
    "watthours": "watthour watthours",
    "joules": "joule joules",
    "calories": "calorie calories",
    "hertz": "hz hertz",
    "bits": "bit bits",
    "bytes": "byte bytes",
    "hectares": "ha hectare hectares",
    "acres": "acre acres",
    "decades": "decade decades",
    "radians": "radian radians",
    "degrees": "° degree degrees",
    "miles per hour": "mph",
    "kilometers per hour": "kph kmh",
    "megabits per second": "mbps",
    "gigabits per second": "gbps",
    "knots": "knot knots",
}
_PREFIXES = {"nano": "n", "micro": "μ", "milli": "m", "centi": "c", "deci": "d", "kilo": "k"}
_PREFIXES |= {"mega": "", "giga": "", "tera": ""}
_PREFIXED = """
meters grams liters seconds watts watthours volts amperes newtons joules calories hertz bits bytes
"""
_SHORT = {"meters": "m", "grams": "g", "liters": "l", "seconds": "s"}
# Symbols whose case matters, as in "mW" and "MW". "mw" may be either and "Mb" a bit or a byte, so these say nothing.
_SYMBOLS = """
W watts, mW milliwatts, kW kilowatts, KW kilowatts, kw kilowatts, MW megawatts, GW gigawatts, TW terawatts
Wh watthours, kWh kilowatthours, KWh kilowatthours, kwh kilowatthours, MWh megawatthours, GWh gigawatthours
V volts, μV microvolts, mV millivolts, kV kilovolts, KV kilovolts, kv kilovolts, MV megavolts
A amperes, μA microamperes, mA milliamperes, ma milliamperes, kA kiloamperes
J joules, mJ millijoules, kJ kilojoules, KJ kilojoules, kj kilojoules, MJ megajoules, GJ gigajoules
mN millinewtons, kN kilonewtons, MN meganewtons
kHz kilohertz, KHz kilohertz, khz kilohertz, MHz megahertz, mhz megahertz, GHz gigahertz, ghz gigahertz, THz terahertz
kbit kilobits, Mbit megabits, Gbit gigabits
kB kilobytes, KB kilobytes, kb kilobytes, MB megabytes, mb megabytes
GB gigabytes, gb gigabytes, TB terabytes, tb terabytes
Kb kilo-b, Mb mega-b, Gb giga-b, Tb tera-b
cal calories, kcal kilocalories
"""
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
for _prefix, _letter in _PREFIXES.items():
    for _unit in _PREFIXED.split():
        _UNIT_OF |= {f"{_prefix}{word}": f"{_prefix}{_unit}" for word in _UNITS[_unit].split() if len(word) > 3}
    _UNIT_OF |= {f"{_letter}{symbol}": f"{_prefix}{unit}" for unit, symbol in _SHORT.items() if _letter}
_NAME_OF = dict(pair.split() for line in _SYMBOLS.split("\n") for pair in line.split(",") if pair)
# What shows that a letter is not a unit, or a part of one, as in "4 A's", "4 A students", "5 kW·h" and "30 J / 10 s".
_NO_SYMBOL = r"'s|\s*[·⋅/]|\s?h\b| [a-z]+s\b"
_SYMBOL = re.compile(rf"(?<=\d)([ -]?)({'|'.join(sorted(_NAME_OF, key=len, reverse=True))})(?!\w|{_NO_SYMBOL})")
_OF_BITS = {"Kb": "kbit", "Mb": "Mbit", "Gb": "Gbit"}  # of a check; in an answer these may also be meant as bytes
_WATT_HOUR = re.compile(r"(?<=watt)[ -](?=hours?\b)", re.IGNORECASE)
A_UNIT = re.compile(rf"\ban? (?=(?:{'|'.join(word for word in _UNIT_OF if len(word) > 2)})\b)", re.IGNORECASE)
CURRENCIES = "$€£¥₹"
CURRENCY_BEFORE = re.compile(rf"(?:[{CURRENCIES}]|(?<![a-z])(?:usd|eur|gbp|jpy|inr|cny|chf|sek|nok|dkk|cad|aud))\s*$")
_POWER = r"(?:(?:\s*\^)?([23])(?!\w|\.\d))?"
_IN = r"in\b(?=\s+(?!long|wide|high|tall|deep|thick|is|are|or|and|by)[a-z])"  # the preposition, as in "8 in total"
_KIND = r"(?:(?:working|business|calendar|full|whole|swiss|swedish|british)\s+)?"
_AFTER = re.compile(
    rf"(?:-(?=[a-z])|\s*){_KIND}(?:(us|square|cubic|metric|sq|cu)\.?\s+)?"
    rf"(?:(°|degrees?)\s*)?(?:{_IN}|([a-zμ]+|[%¢{CURRENCIES}]))?{_POWER}"
    rf"(?:(?:\s*/\s*|\s+(?:per|an?)\s+)([a-z]+){_POWER})?"
)


def unit_after(after: str) -> str:
    """The unit after a number, or "" if it is unknown."""
    match = _AFTER.match(after)
    assert match is not None
    form, degree, word, power, per, per_power = match.groups()
    unit = _UNIT_OF.get(word or "", "degrees" if degree else "")
    if degree and unit not in ("celsius", "fahrenheit"):
        return "degrees"
    unit = _raised(unit, {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}.get(form or "", power))
    return f"{unit} per {_raised(_UNIT_OF[per].removesuffix('s'), per_power)}" if unit and per in _UNIT_OF else unit


def _raised(unit: str, power: str | None) -> str:
    return f"{'square' if power == '2' else 'cubic'} {unit}" if unit and power else unit


def canonical_unit(unit: str) -> str:
    """The normalised spelling of a check's unit; unchanged if the table lacks it."""
    plain = clean(unit)
    plain = spell_symbols(f"1 {_OF_BITS.get(plain, plain)}")[2:].casefold()
    return unit_after(f" {plain}") or plain


def is_known(unit: str) -> bool:
    """Whether the table has a check's unit, so that an answer in another unit is wrong.

    >>> is_known("kWh"), is_known("working days"), is_known("pages")
    (True, True, False)
    """
    plain = canonical_unit(unit)
    return plain in _UNITS or bool(unit_after(f" {plain}"))


def spell_symbols(text: str) -> str:
    """The text, its letters as given, with names for the symbols of units after numbers whose case matters.

    >>> spell_symbols("5 mW, 5 MW or 3 kilowatt hours")
    '5 milliwatts, 5 megawatts or 3 kilowatthours'
    """
    return _WATT_HOUR.sub("", _SYMBOL.sub(lambda match: f"{match[1]}{_NAME_OF[match[2]]}", text))

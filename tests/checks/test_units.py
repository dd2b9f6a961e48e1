"""Units of numbers: prefixes, symbols whose case matters, currencies, and what says nothing about the unit."""

import pytest

from instruct.checks.rules import is_right
from instruct.checks.schema import parse_check
from instruct.checks.units import is_known


def judge(unit, value, answer):
    return is_right(parse_check({"type": "number", "value": value, "unit": unit}, "here"), answer, "How much?")


@pytest.mark.parametrize(
    ("unit", "value", "answer"),
    [
        ("watts", 5, "The kettle uses 5 kW."),
        ("volts", 230, "230 kV"),
        ("gigahertz", 2, "It runs at 2 MHz."),
        ("gigabytes", 2, "Up to 2 MB."),
        ("GB", 2, "Two MB"),
        ("TB", 2, "2 GB"),
        ("amperes", 3, "3 mA"),
        ("calories", 500, "500 kcal"),
        ("MW", 5, "5 mW"),
        ("kWh", 5, "5 kW"),
        ("kilowatt hours", 5, "5 kilowatts"),
        ("gigabits per second", 100, "100 Mbps"),
        ("hours", 14, "14-day returns"),
        ("working days", 2, "2 weeks"),
        ("CHF", 9, "9 SEK"),
        ("CHF", 9, "SEK 9"),
        ("dollars", 50, "EUR 50"),
        ("CAD", 5, "5 AUD"),
        ("NOK", 5, "5 DKK"),
    ],
)
def test_a_unit_a_thousand_times_larger_or_another_currency_is_wrong(unit, value, answer):
    assert not judge(unit, value, answer)


@pytest.mark.parametrize(
    ("unit", "value", "answer"),
    [
        ("students", 4, "4 A students"),
        ("students", 4, "Only 4 A's were given."),
        ("kWh", 5, "5 kW·h"),
        ("kWh", 5, "5 kW h"),
        ("Mb", 100, "100 Mbit"),
        ("Mb", 100, "100 megabits"),
        ("GB", 2, "2 gigabytes"),
        ("GB", 2, "up to 2gb"),
        ("gigabytes", 2, "Two GB"),
        ("kW", 5, "5 kilowatts"),
        ("kWh", 5, "five kilowatt-hours"),
        ("kilowatt hours", 5, "5 kWh"),
        ("milliliters", 5, "5 mL"),
        ("megabits per second", 100, "100 Mbps"),
        ("hours", 14, "a 14-hour trip"),
        ("working days", 2, "2 days"),
        ("days", 3, "3 business days"),
        ("euros", 50, "EUR 50"),
        ("euros", 9, "EUR 9/month"),
        ("CHF", 9, "9 Swiss francs"),
        ("Swiss francs", 9, "CHF 9"),
        ("INR", 5, "5 rupees"),
    ],
)
def test_a_unit_may_be_spelled_or_be_a_symbol(unit, value, answer):
    assert judge(unit, value, answer)


@pytest.mark.parametrize("answer", ["12 total", "12 in all", "12 of them", "12", "12 mw", "12 Mb"])
def test_a_word_that_is_no_unit_and_a_symbol_of_two_units_say_nothing(answer):
    assert all(judge(unit, 12, answer) for unit in ("meters", "kW", "megabytes", "apples"))


def test_count_nouns_are_units_that_the_table_lacks():
    assert [unit for unit in ("GB", "kWh", "m²", "CHF", "Canadian dollars", "working days") if not is_known(unit)] == []
    assert not is_known("pages") and not is_known("GiB")

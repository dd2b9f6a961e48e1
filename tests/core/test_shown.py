import doctest
import sys
import unicodedata

import pytest

from instruct.core import shown
from instruct.core.shown import printable, printable_lines

HARMLESS = {"\u200b", "\u200c", "\u200d"}  # joiners that languages and emoji need


def test_the_examples_are_right():
    assert doctest.testmod(shown).failed == 0


def test_no_control_character_of_unicode_is_left_and_no_letter_is_changed():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        told = printable(character)
        if category in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(character) in _TURNING:
            assert told != character and told.isascii() and told.isprintable(), hex(code)
        elif category not in ("Cf", "Cn"):
            assert told == character, hex(code)


_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[2J\x1b[31mred",
        "\x1b]0;title\x07",
        "\x9b31m",
        "over\rwritten",
        "\u202egnp.exe",
        "\x08\x08",
        "\x1bP1$r\x1b\\",
    ],
)
def test_no_sequence_reaches_the_terminal(text):
    for told in (printable(text), printable_lines(text)):
        assert not any(unicodedata.category(sign) == "Cc" for sign in told)
        assert "\u202e" not in told


def test_what_is_shown_can_be_written_and_is_the_same_when_shown_again():
    text = "half \ud800, tab\t, joiner \u200d, \U000e0041"
    assert printable(text).encode() and printable(printable(text)) == printable(text)
    assert all(sign in printable("".join(HARMLESS)) for sign in HARMLESS)


def test_lines_stay_lines_and_one_line_stays_one():
    assert printable("a\nb\r\nc").count("\n") == 0
    assert printable_lines("a\nb\tc\x1b\n") == "a\nb\tc\\x1b\n"

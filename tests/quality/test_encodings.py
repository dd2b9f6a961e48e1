import json

import pytest
from quality_records import example, found

from instruct.quality.encodings import find_in_characters

GOOD = [
    "Crème brûlée, façade, naïve, Ångström, Þór, œuvre",
    "“Quoted” – dashed — and … so on",
    "Привет, мир",
    "東京は日本の首都です。",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "می\u200cخواهم",  # a zero-width non-joiner is spelling in Persian
    "👩\u200d👩\u200d👧 family, ☺\ufe0f and 👍🏽",
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f flies over Edinburgh",
    "πr², E = mc², 5 µm, 20 °C, ½ × ¾, √2, ∑, ≤",
    "H₂O, CO₂, Na⁺",
    "AT&T, R&D, Marks & Spencer; a && b",
    "tab\there\nand a line",
    "a line\r\nand one more\r\n",
    "ภาษา\u200bไทย",
    "ភាសា\u200bខ្មែរ",
    "ພາສາ\u200bລາວ",
    "မြန်မာ\u200bစာ",
    "ᠮᠣᠩᠭᠣᠯ\u180eᠠ",
    "\u061cمرحبا",
    "C:\\users\\new, \\n is a line feed, \\alpha",
    "£5, €10 and ¥20, ¿Qué? ¡Sí!",
    "He said «bonjour» to Zoë",
    "",
]


def hits(text, field="output", **others):
    record = example(**{**others, field: text})
    return list(find_in_characters(record, all(value.isascii() for value in (record.instruction, record.input, text))))


@pytest.mark.parametrize("text", GOOD)
def test_good_text_of_any_language_is_no_finding(text):
    assert hits(text) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a\x00b", "0000"),
        ("a\x1b[0mb", "001B"),
        ("line\rline", "000D"),
        ("line\r\r\n", "000D"),
        ("form\x0cfeed", "000C"),
        ("del\x7f", "007F"),
        ("zero\u200bwidth", "200B"),
        ("\ufeffbom", "FEFF"),
        ("a\u061cb", "061C"),
        ("a\u180eb", "180E"),
        ("ไทย is \u200bThai", "200B"),
        ("soft\u00adhyphen", "00AD"),
        ("\u202etxt.exe", "202E"),
        ("line\u2028break", "2028"),
        ("private \ue001", "E001"),
        ("hidden\U000e0068\U000e0069", "E0068"),
        ("\U0001f3f4\U000e0067\U000e007f\U000e0068", "E0068"),  # behind a whole flag
    ],
)
def test_control_and_hidden_characters_are_named_with_their_place(text, code):
    (hit,) = hits(text)
    assert hit.finding == "control_characters"
    assert hit.what.startswith(f"holds U+{code} at character ")
    assert text[int(hit.what.split()[-1])] == chr(int(code, 16))


# Texts with the characters that UTF-8 spells in several bytes, read as another encoding: what mojibake is.
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac_roman"])
@pytest.mark.parametrize(
    "text", ["The café is in Orléans.", "It’s a “test” – really", "Größe und Übermut", "20 °C, £5"]
)
def test_utf8_read_as_another_encoding_is_found(text, encoding):
    broken = text.encode("utf-8").decode(encoding, errors="replace")
    assert found(hits(broken)) == ["broken_encoding"]
    assert hits(text) == []


def test_text_that_was_broken_twice_is_found():
    once = "déjà vu".encode().decode("latin-1")
    assert found(hits(once.encode().decode("latin-1"))) == ["broken_encoding"]


def test_a_replacement_character_is_found():
    (hit,) = hits("caf\ufffd")
    assert (hit.finding, hit.what) == (
        "broken_encoding",
        "holds U+FFFD, what is left of a character, at character 3",
    )


@pytest.mark.parametrize("text", [json.dumps("Žižek"), "fish &amp; chips", "caf&#233;", r"caf\xc3\xa9"])
def test_characters_left_escaped_are_found(text):
    assert found(hits(text)) == ["broken_encoding"]


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        ("&amp;", "How is & written in HTML?"),
        (r"\u00e9", "Give the Unicode escape of é."),
        (r'print("\u00e9")', "Write it in Python."),
    ],
)
def test_escapes_that_were_asked_for_are_no_finding(text, instruction):
    assert hits(text, instruction=instruction) == []


@pytest.mark.parametrize("field", ["instruction", "input", "output"])
def test_the_field_is_named(field):
    assert found(hits("a\x00b", field), "control_characters") == [field]
    assert found(hits("caf\ufffd", field), "broken_encoding") == [field]

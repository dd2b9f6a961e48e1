"""Texts as words, so that case, quotes, Markdown and final punctuation do not matter."""

import re
import unicodedata

_MARKS = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "´": "'", "–": "-", "—": "-", "−": "-", "‑": "-", "⁄": "/", "…": "..."}
)
_SUPERSCRIPT = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_MIXED = re.compile("(?<=\\d)(?=[¼½¾⅐-⅞])")
_MARKDOWN = re.compile(r"\*\*|__|`|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)")
# A number may have a sign, commas between groups of three digits, and points, colons or slashes between digits.
_NUMBER = r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:[.:/]\d+)*"
# `re` has no class for combining marks, which are part of a letter in Hindi, Thai and many other scripts.
_COMBINING = "".join(chr(code) for code in range(0x10000) if unicodedata.category(chr(code)).startswith("M"))
_LETTERS = rf"\w[\w{_COMBINING}]*"
# "C++", "C#" and "A+" keep their ending. Signs that compare or add are words, but arrows are not.
_WORD = re.compile(rf"{_NUMBER}|{_LETTERS}(?:'{_LETTERS})*(?:[+#]+(?!\w))?|(?<![-=])[<>≤≥≠=+](?!>)")

_FUNCTION_WORDS = """
a an the this that these those it its it's is are was were be been being am has have had do does did will
would can could should may might must of in on at to for from by with as into about than then so and or not no
yes he she they we you i his her their our your my me him them us which who whom whose what when where why how
there here one word answer answers correct right called known also
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def clean(text: str) -> str:
    """One form for quotes, dashes, powers, fractions, Markdown and white space."""
    spaced = _SUPERSCRIPT.sub(r"^\1", _MIXED.sub(" ", text))  # before NFKC makes 102 of 10² and 71/2 of 7½
    plain = unicodedata.normalize("NFKC", spaced).translate(_MARKS)
    return " ".join(_MARKDOWN.sub("", plain).split())


def as_written(text: str) -> str:
    """One form for quotes and dashes, without spaces around lines' ends; Markdown and indentation stay."""
    plain = unicodedata.normalize("NFC", text).translate(_MARKS)
    return "\n".join(line.rstrip() for line in plain.strip().splitlines())


def words_of(text: str) -> list[str]:
    """The words in lower case; hyphens part words, commas within numbers go.

    >>> words_of("It's **1,250** metres, twenty-one!")
    ["it's", '1250', 'metres', 'twenty', 'one']
    """
    return [word.replace(",", "") for word in _WORD.findall(clean(text).casefold())]


def find_phrase(words: list[str], phrase: list[str]) -> list[int]:
    """Where a phrase starts in a text, both as words."""
    size = len(phrase)
    return [i for i in range(len(words) - size + 1) if words[i : i + size] == phrase] if size else []


def same_word(a: str, b: str) -> bool:
    """Whether two words differ only in an ending, such as capital and capitals."""
    short, long = sorted((a, b), key=len)
    return short == long or (len(short) >= 4 and long.startswith(short[: max(4, len(short) - 1)]))

"""Texts as words, so that case, quotes, Markdown and final punctuation do not matter."""

import re
import unicodedata

_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "´": "'", "–": "-", "—": "-", "−": "-", "‑": "-"})
_MARKDOWN = re.compile(r"\*\*|__|`|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)")
# A word: letters and digits, with inner apostrophes, points, commas, slashes, plus signs or colons between digits.
_WORD = re.compile(r"\d[\d,]*(?:[.:/]\d+)+|\d[\d,]*|\w+(?:'\w+)*")

_FUNCTION_WORDS = """
a an the this that these those it its it's is are was were be been being am has have had do does did will
would can could should may might must of in on at to for from by with as into about than then so and or not no
yes he she they we you i his her their our your my me him them us which who whom whose what when where why how
there here one word answer answers correct right called known also
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def clean(text: str) -> str:
    """One form for quotes, dashes, Markdown and white space."""
    plain = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    return " ".join(_MARKDOWN.sub("", plain).split())


def words_of(text: str) -> list[str]:
    """The words in lower case; hyphens part words, commas within numbers go.

    >>> words_of("It's **1,250** metres, twenty-one!")
    ["it's", '1250', 'metres', 'twenty', 'one']
    """
    return [word.replace(",", "") if word[0].isdigit() else word for word in _WORD.findall(clean(text).casefold())]


def find_phrase(words: list[str], phrase: list[str]) -> list[int]:
    """Where a phrase starts in a text, both as words."""
    size = len(phrase)
    return [i for i in range(len(words) - size + 1) if words[i : i + size] == phrase] if size else []


def same_word(a: str, b: str) -> bool:
    """Whether two words differ only in an ending, such as capital and capitals."""
    short, long = sorted((a, b), key=len)
    return short == long or (len(short) >= 4 and long.startswith(short[: max(4, len(short) - 1)]))

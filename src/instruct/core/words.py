"""How many words a text has, also in scripts that write no blanks between words."""

import re
import unicodedata

UNSPACED = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, ideographs
    "\u0e01-\u0e4e\u0e81-\u0ece\u0edc-\u0edf"  # Thai, Lao
    "\u1000-\u103f\u1050-\u108f\ua9e0-\ua9ef\uaa60-\uaa7f"  # Burmese, Shan, Mon
    "\u1780-\u17d3\u17d7\u17dc"  # Khmer
    "\u1950-\u19cf\u1a20-\u1a7f"  # Tai Le, New Tai Lue, Tai Tham
)
"""The characters of scripts without blanks between words, as ranges of a regular expression."""

LETTERS_OF_A_WORD = 2
"""About how many of them make a word, in Chinese and Japanese."""
_UNSPACED = re.compile(f"[{UNSPACED}]")


def count_words(text: str) -> int:
    """The words between blanks; where a script has no blanks, two letters count as a word.

    >>> count_words("What is a wren?"), count_words("法国的首都是哪个城市?"), count_words("")
    (4, 5, 0)
    """
    return sum(_words_in(piece) for piece in text.split())


def _words_in(piece: str) -> int:
    letters = [one for one in _UNSPACED.findall(piece) if unicodedata.category(one)[0] != "M"]
    return (len(letters) + 1) // LETTERS_OF_A_WORD or 1

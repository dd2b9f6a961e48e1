"""Texts that repeat themselves: a fault of models that loop, and of data that teaches it."""

import re
from collections import Counter
from collections.abc import Sequence

from instruct.core.words import LETTERS_OF_A_WORD, UNSPACED, count_words

LONGEST_PERIOD = 30  # words
_TIMES = 4  # repeats of a unit in a row; three in a row is still a figure of speech
_SINGLE_TIMES = 6  # repeats of one word; "ha ha ha ha" is still an answer
_SENTENCE_TIMES, _SENTENCE_WORDS = 3, 4
_EDGES = ".,;:!?\"'()[]-–—*_=|"
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_UNSPACED = re.compile(f"[{UNSPACED}]")


def find_repetition(text: str) -> str | None:
    """How a text repeats itself, in words, or None: the same words many times in a row, or a sentence three times.

    >>> find_repetition("It is 25, 25, 25, 25, 25, 25, 25, 25")
    '1 word 8 times in a row'
    >>> find_repetition("A rose is a rose is a rose.") is None
    True
    >>> find_repetition("我不知道。" * 20)
    '3 words 20 times in a row'
    """
    # Where a script has no blanks between words, each letter stands alone here, and about two of them are a word.
    words = [word.strip(_EDGES) for word in _UNSPACED.sub(r" \g<0> ", text.lower()).split()]
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(set(triples)) == len(triples):
        return None  # nearly every text ends here, after one pass
    letters = len(_UNSPACED.findall(text))
    return _in_a_row(words, LETTERS_OF_A_WORD if letters > len(words) / 2 else 1) or _same_sentence(text)


def _in_a_row(words: Sequence[str], size: int) -> str | None:
    """The shortest unit that repeats often enough in a row; `size` elements of `words` are a word."""
    for period in _distances(words, size, min(LONGEST_PERIOD * size, len(words) // _TIMES)):
        wanted = (_SINGLE_TIMES if period == size else _TIMES) - 1
        run = 0
        longest = 0
        for later, earlier in zip(words[period:], words, strict=False):
            run = run + 1 if later == earlier and later else 0
            longest = max(longest, run)
        if longest >= wanted * period:
            unit = "1 word" if period == size else f"{-(-period // size)} words"
            return f"{unit} {longest // period + 1} times in a row"
    return None


def _distances(words: Sequence[str], least: int, most: int) -> list[int]:
    """How far apart the same three words are: a unit that repeats often enough is as long as one of these."""
    places: dict[tuple[str, ...], list[int]] = {}
    found = set[int]()
    for place, triple in enumerate(zip(words, words[1:], words[2:], strict=False)):
        earlier = places.setdefault(triple, [])
        for one in reversed(earlier):
            if place - one > most:
                break
            found.add(place - one)
        earlier.append(place)
    return sorted(one for one in found if one >= least)


def _same_sentence(text: str) -> str | None:
    sentences = [sentence.strip().lower() for sentence in _SENTENCE.split(text)]
    counts = Counter(sentence for sentence in sentences if count_words(sentence) >= _SENTENCE_WORDS)
    times = max(counts.values(), default=0)
    return f"one sentence {times} times" if times >= _SENTENCE_TIMES else None

"""Texts that repeat themselves: a fault of models that loop, and of data that teaches it."""

import re
from collections import Counter
from collections.abc import Sequence

LONGEST_PERIOD = 30  # words
_TIMES = 4  # repeats of a unit in a row; three in a row is still a figure of speech
_SINGLE_TIMES = 6  # repeats of one word; "ha ha ha ha" is still an answer
_SENTENCE_TIMES, _SENTENCE_WORDS = 3, 4
_EDGES = ".,;:!?\"'()[]-–—*_=|"
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def find_repetition(text: str) -> str | None:
    """How a text repeats itself, in words, or None: the same words many times in a row, or a sentence three times.

    >>> find_repetition("It is 25, 25, 25, 25, 25, 25, 25, 25")
    '1 word 8 times in a row'
    >>> find_repetition("A rose is a rose is a rose.") is None
    True
    """
    words = [word.strip(_EDGES) for word in text.lower().split()]
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(set(triples)) == len(triples):
        return None  # nearly every text ends here, after one pass
    return _in_a_row(words) or _same_sentence(text)


def _in_a_row(words: Sequence[str]) -> str | None:
    """The shortest unit of words that repeats often enough in a row."""
    for period in range(1, min(LONGEST_PERIOD, len(words) // _TIMES) + 1):
        wanted = (_SINGLE_TIMES if period == 1 else _TIMES) - 1
        run = 0
        longest = 0
        for later, earlier in zip(words[period:], words, strict=False):
            run = run + 1 if later == earlier and later else 0
            longest = max(longest, run)
        if longest >= wanted * period:
            unit = "1 word" if period == 1 else f"{period} words"
            return f"{unit} {longest // period + 1} times in a row"
    return None


def _same_sentence(text: str) -> str | None:
    sentences = [sentence.strip().lower() for sentence in _SENTENCE.split(text)]
    counts = Counter(sentence for sentence in sentences if len(sentence.split()) >= _SENTENCE_WORDS)
    times = max(counts.values(), default=0)
    return f"one sentence {times} times" if times >= _SENTENCE_TIMES else None

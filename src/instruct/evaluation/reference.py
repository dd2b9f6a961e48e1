"""Likeness of a response to the reference answer, without any model or server.

It says how near a response is to *one* right answer. A good answer in other words scores low, so this is
similarity, not a judge's opinion.
"""

import re
from collections import Counter
from dataclasses import dataclass

from rapidfuzz.distance import LCSseq
from sacrebleu.metrics.chrf import CHRF

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|\w+")
_CHRF = CHRF()


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Four measures from 0 to 100, and their one-number summary."""

    exact_match: float
    token_f1: float
    rouge_l: float
    chrf: float

    @property
    def similarity(self) -> float:
        """The mean of token F1, ROUGE-L and chrF, 0-100; 100 for an exact match."""
        return 100.0 if self.exact_match else (self.token_f1 + self.rouge_l + self.chrf) / 3


def compare(response: str, reference: str) -> Likeness:
    """Measure one response against the reference answer.

    Exact match is to the letter, but for white space. Token F1 (Rajpurkar et al., 2016) and ROUGE-L F1 (Lin, 2004)
    are over lower-case words and whole numbers of any script, chrF (Popovic, 2015) over characters as they are.
    """
    ours, theirs = tokens(response), tokens(reference)
    return Likeness(
        exact_match=100.0 * (response.split() == reference.split()),
        token_f1=100.0 * _f1(sum((Counter(ours) & Counter(theirs)).values()), len(ours), len(theirs)),
        rouge_l=100.0 * _f1(LCSseq.similarity(ours, theirs), len(ours), len(theirs)),
        chrf=_CHRF.sentence_score(response, [reference]).score,
    )


def tokens(text: str) -> list[str]:
    """Lower-case words, and numbers with their separators.

    >>> tokens("It's 1,725.50 km — naïve?")
    ['it', 's', '1,725.50', 'km', 'naïve']
    """
    return _TOKEN.findall(text.lower())


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0

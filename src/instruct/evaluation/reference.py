"""Similarity of a response to the reference answer, without any model or server.

It says how near a response is to *one* right answer. A good answer in other words scores low, so this is
similarity, not a judge's opinion.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from rapidfuzz.distance import LCSseq
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from instruct.core.words import UNSPACED
from instruct.results.schema import DECIMALS

_MARK = "\u0301"  # in place of every combining mark: they belong to the word, but `re` does not think so
_LETTER = rf"[^\W{UNSPACED}]"
_TOKEN = re.compile(rf"(?:(?<![\w)])-)?\d+(?:[.,]\d+)*|[{UNSPACED}]{_MARK}*|{_LETTER}(?:{_LETTER}|{_MARK})*")
_CHRF = CHRF()
PROBES = (
    ("The  quick brown fox.", "the quick, brown fox"),
    ("It's −1,725.50 km — naïve?", "It is -1,725.50 km"),
    ("a b c d e b", "b a d c e"),
    ("one 2 three\n", "one 2 three"),
    ("हिन्दी 東京タワー ภาษาไทย", "東京 हिन्दी ไทย"),
    ("Straße 3.5 £10 x_y e\u0301", "STRASSE 3,5 10 x y é"),
    ("!?", "?"),
    ("", "empty"),
)
"""Pairs of texts on which rules for tokens, case, numbers, order and repetition differ; see `signatures`."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Four measures from 0 to 100, and their one-number summary."""

    exact_match: float
    token_f1: float
    rouge_l: float
    chrf: float

    @property
    def similarity(self) -> float:
        """The mean of token F1, ROUGE-L and chrF, 0-100; 100 for an exact match."""
        return 100.0 if self.exact_match else (self.token_f1 + self.rouge_l + self.chrf) / 3


def compare(response: str, reference: str) -> Measured:
    """Measure one response against the reference answer.

    Exact match is to the letter, but for white space. Token F1 (Rajpurkar et al., 2016) and ROUGE-L F1 (Lin, 2004)
    are over `tokens`, so without case and punctuation, chrF (Popovic, 2015) over characters as they are.
    """
    ours, theirs = tokens(response), tokens(reference)
    return Measured(
        exact_match=100.0 * (response.split() == reference.split()),
        token_f1=100.0 * _f1(sum((Counter(ours) & Counter(theirs)).values()), len(ours), len(theirs)),
        rouge_l=100.0 * _f1(LCSseq.similarity(ours, theirs), len(ours), len(theirs)),
        chrf=_CHRF.sentence_score(response, [reference]).score,
    )


def corpus_bleu(responses: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of all answers together (Papineni et al., 2002), by sacrebleu's defaults; it has no value for one answer."""
    return BLEU().corpus_score(list(responses), [list(references)]).score


def signatures() -> dict[str, str]:
    """What says exactly how each measure is computed: sacrebleu's own word, or a digest of what ours gives for PROBES.

    sacrebleu's holds its version, so that others can repeat it. Another token rule, or library under ours, changes the
    digest if it changes what the measure is.
    """
    bleu, chrf = BLEU(), CHRF()
    for metric in (bleu, chrf):
        metric.corpus_score(["a"], [["a"]])  # a signature exists after a use only
    found = [compare(response, reference) for response, reference in PROBES]
    split = [tokens(text) for pair in PROBES for text in pair]
    return {
        "bleu": str(bleu.get_signature()),
        "chrf": str(chrf.get_signature()),
        "exact_match": _digest([one.exact_match for one in found]),
        "token_f1": _digest(split, [round(one.token_f1, DECIMALS) for one in found]),
        "rouge_l": _digest(split, [round(one.rouge_l, DECIMALS) for one in found]),
    }


def _digest(*values: Sequence[object]) -> str:
    return f"probes:{sha256(json.dumps(values).encode()).hexdigest()[:16]}"


def tokens(text: str) -> list[str]:
    """Lower-case words, and numbers with sign and separators; where no blanks part words, each letter with its marks.

    A text without a letter or a digit is taken by its white space, so that `?` is still like `?`.

    >>> tokens("It's −1,725.50 km — naïve?")
    ['it', 's', '-1,725.50', 'km', 'naïve']
    >>> tokens("हिन्दी 東京"), tokens("!?")
    (['हिन्दी', '東', '京'], ['!?'])
    """
    text = unicodedata.normalize("NFC", text.lower().replace("−", "-"))
    masked = "".join(_MARK if unicodedata.category(character)[0] == "M" else character for character in text)
    return [text[match.start() : match.end()] for match in _TOKEN.finditer(masked)] or text.split()


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0

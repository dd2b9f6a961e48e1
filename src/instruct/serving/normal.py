"""Text as the policy searches it: composed, without invisible characters, and once more with look-alike letters."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

# Unicode's Default_Ignorable_Code_Point, as ranges, without the category Cf. NFKC turns U+3164 and U+FFA0 into U+1160.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\ufe00-\ufe0f\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
# Letters of other scripts that look like Latin ones (from Unicode's confusables.txt); full-width ones are NFKC's.
_LOOK_ALIKE = str.maketrans(
    "АВЕЗКМНОРСТУХІЈЅаеорсухіјѕԁһӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧαιονρυ",
    "ABE3KMHOPCTYXIJSaeopcyxijsdhlABEZHIKMNOPTYXaiovpu",
)
_MOST = 31  # characters that are composed together: to sort a longer run of marks takes quadratic time


def normalise(text: str) -> tuple[str, list[tuple[int, int]]]:
    r"""The text in NFKC without invisible characters, and where each of its characters begins and ends in the original.

    >>> normalise("\uff21\u200bbe\u0301")
    ('Abé', [(0, 1), (2, 3), (3, 5)])
    """
    if text.isascii():
        return text, [(place, place + 1) for place in range(len(text))]
    parts, places = list[str](), list[tuple[int, int]]()
    for start, end, cluster in _clusters(text):
        parts.append(_composed(cluster))
        places += [(start, end)] * len(parts[-1])
    return "".join(parts), places


def latinised(text: str) -> str:
    """A text of the same length with Latin letters for those that look like them."""
    return text.translate(_LOOK_ALIKE)


def _clusters(text: str) -> Iterator[tuple[int, int, str]]:
    """Each visible character with those after it that may compose with it, and where they begin and end."""
    start, end, cluster = 0, 0, ""
    for place, character in enumerate(text):
        if _is_invisible(character):
            continue
        if cluster and (len(cluster) == _MOST or not _joins(character)):
            yield start, end, cluster
            cluster = ""
        start, end, cluster = start if cluster else place, place + 1, cluster + character
    if cluster:
        yield start, end, cluster


@lru_cache(1 << 16)
def _composed(cluster: str) -> str:
    return unicodedata.normalize("NFKC", cluster)


@lru_cache(1 << 16)
def _is_invisible(character: str) -> bool:
    return all(unicodedata.category(one) == "Cf" or _IGNORABLE.match(one) for one in _composed(character))


@lru_cache(1 << 16)
def _joins(character: str) -> bool:
    """Whether NFKC may compose it with a character before it: marks, vowels and finals of Korean, a Kirat Rai vowel."""
    first = unicodedata.normalize("NFKD", character)[0]
    return unicodedata.category(first)[0] == "M" or "\u1161" <= first <= "\u11c2" or first == "\U00016d67"

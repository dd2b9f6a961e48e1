"""What makes a right answer wrong: a word of doubt, a denial, or a claim beside it."""

import re
from collections.abc import Sequence

from instruct.checks.numbers import without_days
from instruct.checks.words import FUNCTION_WORDS, clean, find_phrase, same_word, words_of

HEDGES = frozenset(["or", "maybe", "perhaps", "possibly", "probably", "either", "unsure", "might", "could", "guess"])
_DENIALS = frozenset(
    [
        "not",
        "no",
        "never",
        "isn't",
        "aren't",
        "wasn't",
        "weren't",
        "don't",
        "doesn't",
        "didn't",
        "cannot",
        "can't",
        "neither",
        "nor",
    ]
)
_LINK = re.compile(r"[\s\"']*(?:,|/|;|\band\b|\bor\b)\s*(?:(?:and|or)\s+)?(?:(?:a|an|the)\s+)?", re.IGNORECASE)
LIST_MARK = re.compile(r"^(?:[-*•]|\d+[.)])\s+")
_OPENING_NO = re.compile(r"\W*no\s*[,.;:!]\s*\w+\s", re.IGNORECASE)  # "No, it is Lima." but not "No, Lima."
_AUXILIARIES = frozenset(["is", "are", "was", "were", "does", "do", "did", "has", "have", "had", "can", "will"])
_LINKED = 100  # characters before and after an answer in which the words that are linked to it are
_REACH = 3  # words before an answer in which a denial makes it wrong, and by which another list item may be longer


def spans_of(words: list[str], phrases: Sequence[str]) -> list[tuple[int, int]]:
    """The places of phrases, the longest first, none within another."""
    taken: set[int] = set()
    spans = []
    for phrase in sorted((words_of(one) for one in phrases), key=len, reverse=True):
        for start in find_phrase(words, phrase):
            span = range(start, start + len(phrase))
            if not taken & set(span):
                taken |= set(span)
                spans.append((start, start + len(phrase)))
    return spans


def is_denied(answer: str, spans: Sequence[tuple[int, int]], phrases: Sequence[str], question: str) -> bool:
    """Whether a denial is shortly before a span of words or in the verb after it, and is not the question's own."""
    words, asked = words_of(answer), words_of(question)
    places = set()
    for start, end in spans:
        places |= {place for place in range(max(0, start - _REACH), start) if not _is_relative(words, place, start)}
        verb = words[end] if end < len(words) else ""
        places |= {end} if verb.endswith(("n't", "cannot")) else {end + 1} if verb in _AUXILIARIES else set()
    if _OPENING_NO.match(answer):
        places.discard(0)
    denials = _DENIALS - {word for phrase in phrases for word in words_of(phrase)}
    denied = [place for place in places if place < len(words) and words[place] in denials]
    return not all(_asks_denied(asked, words[place + 1 : place + 2]) for place in denied)


def _is_relative(words: list[str], place: int, start: int) -> bool:
    """Whether a denial is in a relative clause that ends before the answer: "the one that does not fit is ..."."""
    return bool({"that", "which", "who"} & set(words[max(0, place - 2) : place])) and "is" in words[place:start]


def _asks_denied(asked: list[str], denied: list[str]) -> bool:
    """Whether the question denies the same word, as in "Which city is not in Italy?"."""
    return any(word in _DENIALS and asked[i + 1 : i + 1 + len(denied)] == denied for i, word in enumerate(asked))


def hedges(words: list[str], question: str, phrases: Sequence[str]) -> bool:
    """Whether the answer has a word of doubt that question and right answer lack; "himself or herself" is not one."""
    asked = words_of(question)
    own = {word for phrase in phrases for word in words_of(phrase)} | (set(asked) - {"or", "either"})
    doubts = [place for place, word in enumerate(words) if word in HEDGES - own]
    return any(not find_phrase(asked, words[max(0, place - 1) : place + 2]) for place in doubts)


def rivals(answer: str, question: str, right: Sequence[str]) -> list[str]:
    """Claims beside the right answer: linked by a comma, "and" or "or", in a list, and other names beside a name."""
    text = without_days(clean(answer))
    allowed = {word for one in right for word in words_of(one)} | FUNCTION_WORDS
    asked = set(words_of(question))
    # The question's words are rivals only if it offers the answer too, and not as the subject of a sentence.
    offered = bool(spans_of(words_of(question), right))
    is_short = len(words_of(text)) <= 2 * len(right) + 2
    rivals = [word for word in _linked(text, right) if (offered and is_short) or word not in asked]
    rivals += [word for word in _listed(answer, right) if offered or word not in asked]
    rivals = [word for word in rivals if not any(same_word(word, one) for one in allowed)]
    if all(one[:1].isupper() for one in right):
        known = allowed | asked
        names = re.findall(r"(?<=[\w,;] )[A-Z]\w+", text)
        rivals += [name for name in names if not any(same_word(name.casefold(), one) for one in known)]
    return rivals


def _linked(text: str, right: Sequence[str]) -> list[str]:
    """The words that a comma, slash, "and" or "or" links to an accepted answer, on either side as many as it has."""
    found = []
    for one in right:
        words = words_of(one)
        size = len(words)
        phrase = rf"(?:\S*\w\s+){{0,{size - 1}}}\S*"
        after = re.compile(phrase)
        before = re.compile(rf"({phrase}\w)\W*(?:,|/|;|\band\b|\bor\b)\W*(?:(?:a|an|the)\W+)?$", re.IGNORECASE)
        inner = r"\W+".join(map(re.escape, words))
        for match in re.finditer(rf"(?<!\w)(?<!\d/){inner}(?!\w|/\d)", text, re.IGNORECASE):
            if (link := _LINK.match(text, match.end())) and (
                linked := after.match(text, link.end(), link.end() + _LINKED)
            ):
                found += words_of(linked[0])[:size]
            if linked := before.search(text[max(0, match.start() - _LINKED) : match.start()]):
                found += words_of(linked[1])[-size:]
    return found


def _listed(answer: str, right: Sequence[str]) -> list[str]:
    """The words of the other items where a list has an accepted answer; without list marks, short lines are items."""
    lines = [line for line in map(clean, answer.splitlines()) if line]
    marked = [LIST_MARK.sub("", line, count=1) for line in lines if LIST_MARK.match(line)]
    items = marked or [line for line in lines if not _is_sentence(line, 0)]
    others = [item for item in items if not spans_of(words_of(item), right)]
    if len(others) == len(items):
        return []
    short = max(len(words_of(one)) for one in right) + _REACH
    claims = [words_of(item) for item in others if not _is_sentence(item, 3)]
    return [word for words in claims if len(words) <= short for word in words]


def _is_sentence(line: str, size: int) -> bool:
    """Whether a line is a heading, or ends like a sentence and has more than `size` words."""
    return line.startswith("#") or (line.endswith((".", "!", "?", ":")) and len(words_of(line)) > size)

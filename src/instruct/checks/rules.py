"""Decides whether an answer is right: strictly, deterministically, and without a model.

A full sentence around the right answer is right. A right answer among wrong ones, after "or", or denied is wrong.
"""

import re
from collections.abc import Sequence

from instruct.checks.numbers import Number, canonical_unit, numbers_of
from instruct.checks.schema import Check
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
_LEAD_IN = re.compile(r'^[^:"]{0,80}:\s+(?=\S)')
_LINK = re.compile(r"\s*(?:,|/|;|\n|\band\b|\bor\b)\s*(?:(?:and|or)\s+)?(?:(?:a|an|the)\s+)?", re.IGNORECASE)
_CONCLUSIONS = frozenset(("so", "then", "therefore", "thus", "hence", "total"))
_REACH = 3  # words before an answer in which a denial makes it wrong


def is_right(check: Check, answer: str, question: str) -> bool:
    """Whether `answer` to `question` (instruction and input) is right; raises ValueError for an open check."""
    rules = {
        "exact": _exact,
        "accept": _accept,
        "one_of": _one_of,
        "number": _number,
        "set": _set,
        "order": _order,
    }
    if check.type not in rules:
        raise ValueError(f"a check of type {check.type} knows no right answer")
    return (
        bool(words_of(answer)) and not _copies(check, answer, question) and rules[check.type](check, answer, question)
    )


def _copies(check: Check, answer: str, question: str) -> bool:
    """Whether an answer of several words is a piece of the question, and no text that counts as right by itself.

    This excludes the options of a question, and keywords if they come with a line of the question.
    """
    if check.type == "one_of":
        return False
    words, asked = words_of(answer), words_of(question)
    lines = [words_of(line) for line in question.splitlines()]
    if check.type == "set" and any(len(line) > 4 and find_phrase(words, line) for line in lines):
        return True
    right = [words_of(text) for text in (*check.accept, *(text for item in check.items for text in item))]
    enough = 2 if check.type == "number" and not words[-1][0].isdigit() else 1  # a number may have its unit
    return len(words) > enough and words not in right and bool(find_phrase(asked, words))


def _exact(check: Check, answer: str, question: str) -> bool:
    """The whole answer, or the text after a lead-in such as "The sentence is:"."""
    text = clean(answer)
    shapes = {text, _LEAD_IN.sub("", text, count=1), text.strip('"')}
    if check.strict:
        return any(_same_marks(shape, wanted) for shape in shapes for wanted in check.accept)
    return any(words_of(shape) == words_of(wanted) for shape in shapes for wanted in check.accept)


def _same_marks(text: str, wanted: str) -> bool:
    """Whether letters, capitals and punctuation agree; quotes around the whole do not count."""
    return clean(text) == clean(wanted) or clean(text).strip('"') == clean(wanted)


def _accept(check: Check, answer: str, question: str) -> bool:
    words = words_of(answer)
    spans = _spans(words, check.accept)
    if not spans or _is_denied(words, spans, check.accept) or _hedges(words, question, check.accept):
        return False
    return not _rivals(answer, question, check.accept)


def _one_of(check: Check, answer: str, question: str) -> bool:
    """Exactly one of the options is named, and it is the right one."""
    words = words_of(answer)
    taken: set[int] = set()
    named = set()
    for option in sorted(check.options, key=lambda one: -len(words_of(one))):
        phrase = words_of(option)
        for start in _find_loosely(words, phrase):
            if not taken & set(range(start, start + len(phrase))):
                taken |= set(range(start, start + len(phrase)))
                named.add(option)
                if _is_denied(words, [(start, start + len(phrase))], [option]):
                    return False
    return named == {check.accept[0]}


def _find_loosely(words: list[str], phrase: list[str]) -> list[int]:
    """Where a phrase is, its last word also in the plural."""
    ends = [[*phrase[:-1], phrase[-1] + ending] for ending in ("", "s", "es")]
    return sorted({start for one in ends for start in find_phrase(words, one)})


def _number(check: Check, answer: str, question: str) -> bool:
    """The last numbers are the right ones; others may only repeat the question or be steps on the way."""
    wanted, given = check.values, numbers_of(question)
    found = [one for one in numbers_of(answer) if _counts(one, wanted, given)]
    last = found[-len(wanted) :]
    if len(last) < len(wanted) or _hedges(words_of(answer), question, ()):
        return False
    if not all(_equals(one, value, check.tolerance) for one, value in zip(last, wanted, strict=True)):
        return False
    units = zip(last, (canonical_unit(unit) for unit in check.units), strict=False)
    if not all(one.unit == unit or _goes_without(one, unit, given) for one, unit in units):
        return False
    rest = [one for one in found[: -len(wanted)] if not _is_step(one, answer)]
    return all(any(_equals(one, value, check.tolerance) for value in wanted) for one in rest)


def _is_step(number: Number, answer: str) -> bool:
    """Whether a number is part of a calculation: an operator follows, it is used again, or a conclusion follows."""
    after = clean(answer).casefold().rpartition(number.text)[2]
    again = sum(one.text == number.text for one in numbers_of(answer)) > 1
    return number.in_sum or again or any(word in _CONCLUSIONS for word in words_of(after))


def _goes_without(number: Number, unit: str, given: Sequence[Number]) -> bool:
    """Whether a unit may be missing, or "degrees" alone; not where the question has this number in another unit."""
    silent = not number.unit or (number.unit == "degrees" and unit in ("celsius", "fahrenheit"))
    return silent and not any(one.value == number.value and one.unit not in ("", unit) for one in given)


def _counts(number: Number, wanted: Sequence[float | str], given: Sequence[Number]) -> bool:
    """Whether a number is a claim: the question's own numbers are none, unless one of them is the answer."""
    repeated = number.text in {one.text for one in given} or number.value in {one.value for one in given}
    return not repeated or any(_equals(number, value, 0.0) for value in wanted)


def _equals(number: Number, wanted: float | str, tolerance: float) -> bool:
    """A text must appear literally; a number in any form."""
    if isinstance(wanted, str):
        return number.text == wanted
    return abs(number.value - wanted) <= max(tolerance, 1e-9 * abs(wanted))


def _set(check: Check, answer: str, question: str) -> bool:
    words = words_of(answer)
    everything = [text for item in check.items for text in item]
    if not all(_spans(words, item) for item in check.items):
        return False
    if _is_denied(words, _spans(words, everything), everything) or _hedges(words, question, everything):
        return False
    return not _rivals(answer, question, everything)


def _order(check: Check, answer: str, question: str) -> bool:
    """All items once, in this order; the words of one item do not count for another."""
    words = words_of(answer)
    at = 0
    for item in check.items:
        starts = [(start, end) for start, end in _spans(words, item) if start >= at]
        if not starts:
            return False
        at = min(starts)[1]
    everything = [text for item in check.items for text in item]
    counts = sum(len(_spans(words, item)) for item in check.items)
    return counts == len(check.items) and not _rivals(answer, question, everything)


def _spans(words: list[str], phrases: Sequence[str]) -> list[tuple[int, int]]:
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


def _is_denied(words: list[str], spans: Sequence[tuple[int, int]], phrases: Sequence[str]) -> bool:
    own = {word for phrase in phrases for word in words_of(phrase)}
    return any(word in _DENIALS - own for start, _ in spans for word in words[max(0, start - _REACH) : start])


def _hedges(words: list[str], question: str, phrases: Sequence[str]) -> bool:
    """Whether the answer has a word of doubt that question and right answer lack; "himself or herself" is not one."""
    asked = words_of(question)
    own = {word for phrase in phrases for word in words_of(phrase)} | (set(asked) - {"or", "either"})
    doubts = [place for place, word in enumerate(words) if word in HEDGES - own]
    return any(not find_phrase(asked, words[max(0, place - 1) : place + 2]) for place in doubts)


def _rivals(answer: str, question: str, right: Sequence[str]) -> list[str]:
    """Claims beside the right answer: words linked to it by a comma, "and" or "or", and other names beside a name."""
    text = clean(answer).replace(" \n", "\n")
    allowed = {word for one in right for word in words_of(one)} | FUNCTION_WORDS
    asked = set(words_of(question))
    rivals = [word for word in _linked(text, right) if not any(same_word(word, one) for one in allowed)]
    # A word of the question linked to the answer is one of several offered, unless it is the subject of a sentence.
    rivals = [word for word in rivals if word not in asked or len(words_of(text)) <= 2 * len(right) + 2]
    if all(one[:1].isupper() for one in right):
        known = allowed | asked
        names = re.findall(r"(?<=[\w,;] )[A-Z]\w+", text)
        rivals += [name for name in names if not any(same_word(name.casefold(), one) for one in known)]
    return rivals


def _linked(text: str, right: Sequence[str]) -> list[str]:
    """The words that a comma, slash, "and" or "or" links to an accepted answer, on either side."""
    found = []
    for one in right:
        inner = r"\W+".join(re.escape(word) for word in words_of(one))
        for match in re.finditer(rf"(?<!\w)(?<!\d/){inner}(?!\w|/\d)", text, re.IGNORECASE):
            link = _LINK.match(text[match.end() :])
            if link and (word := re.match(r"\w+", text[match.end() + link.end() :])):
                found.append(word[0].casefold())
            if before := re.search(
                r"(\w+)\W*(?:,|/|;|\band\b|\bor\b)\W*(?:(?:a|an|the)\W+)?$", text[: match.start()], re.I
            ):
                found.append(before[1].casefold())
    return found

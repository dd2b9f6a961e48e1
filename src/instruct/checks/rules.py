"""Decides whether an answer is right: strictly, deterministically, and without a model.

A full sentence around the right answer is right. A right answer among wrong ones, in doubt or denied is wrong.
"""

import re
from collections.abc import Sequence

from instruct.checks.numbers import Number, canonical_unit, in_digits, numbers_of, without_days
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
_LINK = re.compile(r"\s*(?:,|/|;|\band\b|\bor\b)\s*(?:(?:and|or)\s+)?(?:(?:a|an|the)\s+)?", re.IGNORECASE)
_CONCLUSIONS = frozenset(("so", "then", "therefore", "thus", "hence", "total"))
_LIST_MARK = re.compile(r"(?:[-*•]|\d+[.)])\s+")
_OPENING_NO = re.compile(r"\W*no\s*[,.;:!]\s*\w+\s", re.IGNORECASE)  # "No, it is Lima." but not "No, Lima."
_AUXILIARIES = frozenset(["is", "are", "was", "were", "does", "do", "did", "has", "have", "had", "can", "will"])
_REACH = 3  # words before an answer in which a denial makes it wrong, and by which another list item may be longer


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
    enough = 2 if check.type == "number" and not words[-1].lstrip("-")[0].isdigit() else 1  # a number may have its unit
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
    if not spans or _is_denied(answer, spans, check.accept, question) or _hedges(words, question, check.accept):
        return False
    return not _rivals(answer, question, check.accept)


def _one_of(check: Check, answer: str, question: str) -> bool:
    """Exactly one of the options is named, and it is the right one."""
    words = words_of(answer)
    taken: set[int] = set()
    named = set()
    for option in sorted(check.options, key=lambda one: -len(words_of(one))):
        phrase = words_of(option)
        spans = []
        for start in _find_loosely(words, phrase):
            if not taken & set(range(start, start + len(phrase))):
                taken |= set(range(start, start + len(phrase)))
                spans.append((start, start + len(phrase)))
        if spans:
            named.add(option)
        if _is_denied(answer, spans, [option], question):
            return False
    # "or" is allowed here, because a second option would be named.
    return named == {check.accept[0]} and not _hedges(words, question, (*check.options, "or", "either"))


def _find_loosely(words: list[str], phrase: list[str]) -> list[int]:
    """Where a phrase is, its last word also in the plural."""
    ends = [[*phrase[:-1], phrase[-1] + ending] for ending in ("", "s", "es")]
    return sorted({start for one in ends for start in find_phrase(words, one)})


def _number(check: Check, answer: str, question: str) -> bool:
    """The last numbers are the right ones; others may only repeat the question or be steps on the way."""
    wanted, given = check.values, numbers_of(question)
    claims = answer if len(wanted) > 1 else without_days(answer)
    found = [one for one in numbers_of(claims) if _counts(one, wanted, given)]
    last = found[-len(wanted) :]
    if len(last) < len(wanted):
        return False
    text = in_digits(claims)
    words = words_of(text)
    spans = [max(places) for one in last if (places := _spans(words, [one.text]))]
    if _hedges(words, question, ()) or _is_denied(text, spans, (), question):
        return False
    if not all(_equals(one, value, check.tolerance) for one, value in zip(last, wanted, strict=True)):
        return False
    units = zip(last, (canonical_unit(unit) for unit in check.units), strict=False)
    if not all(_fits(one, unit) or _goes_without(one, unit, given) for one, unit in units):
        return False
    rest = [one for one in found[: -len(wanted)] if not _is_step(one, answer)]
    return all(any(_equals(one, value, check.tolerance) for value in wanted) for one in rest)


def _is_step(number: Number, answer: str) -> bool:
    """Whether a number is part of a calculation: an operator follows, it is used again, or a conclusion follows."""
    after = clean(answer).casefold().rpartition(number.text)[2]
    again = sum(one.text == number.text for one in numbers_of(answer)) > 1
    return number.in_sum or again or any(word in _CONCLUSIONS for word in words_of(after))


def _fits(number: Number, unit: str) -> bool:
    """Whether a number has this unit or a rate of it: "40 minutes per day" is an answer in minutes."""
    return number.unit == unit or number.unit.startswith(f"{unit} per ")


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
    if _is_denied(answer, _spans(words, everything), everything, question) or _hedges(words, question, everything):
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
    if sum(len(_spans(words, item)) for item in check.items) != len(check.items):
        return False
    if _is_denied(answer, _spans(words, everything), everything, question) or _hedges(words, question, everything):
        return False
    return not _rivals(answer, question, everything)


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


def _is_denied(answer: str, spans: Sequence[tuple[int, int]], phrases: Sequence[str], question: str) -> bool:
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


def _hedges(words: list[str], question: str, phrases: Sequence[str]) -> bool:
    """Whether the answer has a word of doubt that question and right answer lack; "himself or herself" is not one."""
    asked = words_of(question)
    own = {word for phrase in phrases for word in words_of(phrase)} | (set(asked) - {"or", "either"})
    doubts = [place for place, word in enumerate(words) if word in HEDGES - own]
    return any(not find_phrase(asked, words[max(0, place - 1) : place + 2]) for place in doubts)


def _rivals(answer: str, question: str, right: Sequence[str]) -> list[str]:
    """Claims beside the right answer: linked by a comma, "and" or "or", in a list, and other names beside a name."""
    text = without_days(clean(answer))
    allowed = {word for one in right for word in words_of(one)} | FUNCTION_WORDS
    asked = set(words_of(question))
    # The question's words are rivals only if it offers the answer too, and not as the subject of a sentence.
    offered = bool(_spans(words_of(question), right))
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


def _listed(answer: str, right: Sequence[str]) -> list[str]:
    """The words of the other items where a list has an accepted answer; without list marks, short lines are items."""
    lines = [line for line in map(clean, answer.splitlines()) if line]
    marked = [_LIST_MARK.sub("", line, count=1) for line in lines if _LIST_MARK.match(line)]
    items = marked or [line for line in lines if not _is_sentence(line, 0)]
    others = [item for item in items if not _spans(words_of(item), right)]
    if len(others) == len(items):
        return []
    short = max(len(words_of(one)) for one in right) + _REACH
    claims = [words_of(item) for item in others if not _is_sentence(item, 3)]
    return [word for words in claims if len(words) <= short for word in words]


def _is_sentence(line: str, size: int) -> bool:
    """Whether a line is a heading, or ends like a sentence and has more than `size` words."""
    return line.startswith("#") or (line.endswith((".", "!", "?", ":")) and len(words_of(line)) > size)

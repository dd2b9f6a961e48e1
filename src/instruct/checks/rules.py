"""Decides whether an answer is right: strictly, deterministically, and without a model.

A full sentence around the right answer is right. A right answer among wrong ones, in doubt or denied is wrong.
"""

import re
from collections import Counter
from collections.abc import Sequence

from instruct.checks.numbers import Number, canonical_unit, in_digits, numbers_of, with_ones, without_days
from instruct.checks.schema import Check
from instruct.checks.words import FUNCTION_WORDS, as_written, clean, find_phrase, same_word, words_of

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
_LEAD_IN = re.compile(r'^[^:"]{0,80}:[*_]*\s+(?=\S)')
_LAST_QUOTE = re.compile(r'\bis:?\s+"([^"]+)"\W*$')  # as in: The past tense of "She leaves." is "She left."
_LINK = re.compile(r"[\s\"']*(?:,|/|;|\band\b|\bor\b)\s*(?:(?:and|or)\s+)?(?:(?:a|an|the)\s+)?", re.IGNORECASE)
_CONCLUSION = re.compile(r"\b(?:so|then|therefore|thus|hence|total)\b")
_LIST_MARK = re.compile(r"^(?:[-*•]|\d+[.)])\s+")
_STEP_MARK = re.compile(r"^[\s*#]*(?:(?:step|answer)\s+)?(\d{1,2})[.):]\**\s+", re.IGNORECASE | re.MULTILINE)
_REJECTED = re.compile(r", (?:and )?not [$€£]?-?\d[\d.,/]*(?<![.,])")
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_ARTICLE = re.compile(r"\b(?:a|(?:(?<![^\n])|(?<=[.!?:]\s))A) +(?!(?:is|or|and|because)\b)(?=[a-z])")
_WRAPPED = re.compile(r'```(?:\w*\n)?(.+?)\n?```|\*\*(.+)\*\*|`([^`]+)`|"(.+)"', re.DOTALL)
_OPENING_NO = re.compile(r"\W*no\s*[,.;:!]\s*\w+\s", re.IGNORECASE)  # "No, it is Lima." but not "No, Lima."
_AUXILIARIES = frozenset(["is", "are", "was", "were", "does", "do", "did", "has", "have", "had", "can", "will"])
_LINKED = 100  # characters before and after an answer in which the words that are linked to it are
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
    said = _without_articles(answer) if "A" in _right_texts(check) + check.options else answer
    return bool(words_of(said)) and not _copies(check, said, question) and rules[check.type](check, said, question)


def _right_texts(check: Check) -> tuple[str, ...]:
    return (*check.accept, *(text for item in check.items for text in item))


def _without_articles(answer: str) -> str:
    """The answer without "a", or "A" that begins a sentence, before another word: these are not the option A."""
    return _ARTICLE.sub("", answer)


def _copies(check: Check, answer: str, question: str) -> bool:
    """Whether an answer of several words is a piece of the question, and no text that counts as right by itself.

    This excludes the options of a question. Keywords must not come with a line of the question, or in a line that is a
    piece of it.
    """
    if check.type == "one_of":
        return False
    words, asked = words_of(answer), words_of(question)
    if check.type == "set":
        lines = [words_of(line) for line in question.splitlines()]
        items = [words_of(_item(line)) for line in answer.splitlines()]
        if any(len(line) > 4 and find_phrase(words, line) for line in lines):
            return True
        if any(len(item) > 4 and find_phrase(asked, item) for item in items):
            return True
    right = [words_of(text) for text in _right_texts(check)]
    enough = 2 if check.type == "number" and not words[-1].lstrip("-")[0].isdigit() else 1  # a number may have its unit
    return len(words) > enough and words not in right and bool(find_phrase(asked, words))


def _item(line: str) -> str:
    """A line without its list mark and lead-in."""
    return _LEAD_IN.sub("", _LIST_MARK.sub("", clean(line), count=1), count=1)


def _exact(check: Check, answer: str, question: str) -> bool:
    """The whole answer, the text after a lead-in such as "The sentence is:", or the quoted text after a final "is"."""
    text = as_written(answer) if check.strict else clean(answer)
    shapes = {text, _LEAD_IN.sub("", text, count=1), *_LAST_QUOTE.findall(text)}
    same = _same_marks if check.strict else _same_words
    return any(same(shape, wanted) for shape in shapes for wanted in check.accept)


def _same_words(text: str, wanted: str) -> bool:
    return words_of(text) == words_of(wanted)


def _same_marks(text: str, wanted: str) -> bool:
    """Whether all characters agree; a code fence, bold type or quotes around the whole do not count."""
    wanted = as_written(wanted)
    for _ in range(3):
        if wanted == (text if "\n" in wanted else " ".join(text.split())):
            return True
        if not (match := _WRAPPED.fullmatch(text)):
            return False
        text = match[match.lastindex or 0].strip()
    return False


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
    wanted, given = check.values, numbers_of(with_ones(question))
    units = [canonical_unit(unit) for unit in check.units]
    text = _without_asides(answer if len(wanted) > 1 else without_days(answer), units)
    numbers = numbers_of(text)
    steps = _steps(numbers, text)
    while len(wanted) == 1 and numbers and numbers[-1].operand:
        numbers.pop()  # a sum at the end lacks its result
    found = _claims(numbers, wanted, given)
    last = found[-len(wanted) :]
    if len(last) < len(wanted):
        return False
    words = words_of(text)
    spans = [max(places) for one in last if (places := _spans(words, [one.text]))]
    if _hedges(words, question, ()) or _is_denied(text, spans, (), question):
        return False
    if not all(_equals(one, value, check.tolerance) for one, value in zip(last, wanted, strict=True)):
        return False
    if not all(_fits(one, unit) or _goes_without(one, unit, given) for one, unit in zip(last, units, strict=False)):
        return False
    rest = [one for one in found[: -len(wanted)] if one not in steps]
    return all(any(_equals(one, value, check.tolerance) for value in wanted) for one in rest)


def _without_asides(answer: str, units: Sequence[str]) -> str:
    """The answer in digits without marks of steps, numbers after ", not", and brackets with other units than these."""
    text = _REJECTED.sub("", in_digits(_without_marks(answer)))
    return _BRACKETS.sub(lambda match: "" if units and _converts(match[0], units) else match[0], text)


def _converts(bracket: str, units: Sequence[str]) -> bool:
    numbers = numbers_of(bracket)
    return bool(numbers) and all(one.unit not in ("", *units) for one in numbers)


def _without_marks(answer: str) -> str:
    """The answer without the numbers of its steps or list items (1, 2, 3), unless it has no others."""
    last = 0

    def drop(match: re.Match[str]) -> str:
        nonlocal last
        if int(match[1]) not in (1, last + 1):
            return match[0]
        last = int(match[1])
        return "\n"

    text = _STEP_MARK.sub(drop, answer)
    return text if last and numbers_of(text) else answer


def _steps(numbers: Sequence[Number], text: str) -> set[Number]:
    """The numbers of a calculation: an operator follows, they are used again, or a conclusion follows."""
    uses = Counter(one.text for one in numbers)
    conclusion = max((match.start() for match in _CONCLUSION.finditer(text)), default=0)
    return {one for one in numbers if one.in_sum or uses[one.text] > 1 or one.end <= conclusion}


def _fits(number: Number, unit: str) -> bool:
    """Whether a number has this unit or a rate of it: "40 minutes per day" is an answer in minutes."""
    return number.unit == unit or number.unit.startswith(f"{unit} per ")


def _goes_without(number: Number, unit: str, given: Sequence[Number]) -> bool:
    """Whether a unit may be missing, or "degrees" alone; not where the question has this number in another unit."""
    silent = not number.unit or (number.unit == "degrees" and unit in ("celsius", "fahrenheit"))
    return silent and not any(one.value == number.value and one.unit not in ("", unit) for one in given)


def _claims(numbers: Sequence[Number], wanted: Sequence[float | str], given: Sequence[Number]) -> list[Number]:
    """The numbers that are claims: the question's own are none, unless one is the answer and this one is stated."""
    texts, values = {one.text for one in given}, {one.value for one in given}
    offered = len(wanted) == 1 and any(_equals(one, wanted[0], 0.0) for one in given)
    restated = {one.value for one in given if one.stated}
    return [
        one
        for one in numbers
        if not (one.text in texts or one.value in values)
        or any(_equals(one, value, 0.0) for value in wanted)
        or (offered and one.stated and not one.operand and one.value not in restated)
    ]


def _equals(number: Number, wanted: float | str, tolerance: float) -> bool:
    """A text must appear literally; a number in any form."""
    if isinstance(wanted, str):
        return number.text == wanted
    return abs(number.value - wanted) <= max(tolerance, 1e-9 * abs(wanted))


def _set(check: Check, answer: str, question: str) -> bool:
    words = words_of(answer)
    everything = _right_texts(check)
    if not all(_spans(words, item) for item in check.items):
        return False
    if _is_denied(answer, _spans(words, everything), everything, question) or _hedges(words, question, everything):
        return False
    return not _rivals(answer, question, everything)


def _order(check: Check, answer: str, question: str) -> bool:
    """All items once, in this order; the words of one item do not count for another."""
    listed = _without_marks(answer)
    words = words_of(listed)
    at = 0
    for item in check.items:
        starts = [(start, end) for start, end in _spans(words, item) if start >= at]
        if not starts:
            return False
        at = min(starts)[1]
    everything = _right_texts(check)
    if sum(len(_spans(words, item)) for item in check.items) != len(check.items):
        return False
    if _is_denied(listed, _spans(words, everything), everything, question) or _hedges(words, question, everything):
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

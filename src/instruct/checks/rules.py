"""Decides whether an answer is right: strictly, deterministically, and without a model.

A full sentence around the right answer is right. A right answer among wrong ones, in doubt or denied is wrong.
"""

import re
from collections.abc import Sequence

from instruct.checks.claims import LIST_MARK, hedges, is_denied, rivals, spans_of
from instruct.checks.number_rule import states_numbers, without_marks
from instruct.checks.schema import Check
from instruct.checks.words import FUNCTION_WORDS, as_written, clean, find_phrase, same_word, words_of

_LEAD_IN = re.compile(r'^[^:"]{0,80}:[*_]*\s+(?=\S)')
_LAST_QUOTE = re.compile(r'\bis:?\s+"([^"]+)"\W*$')  # as in: The past tense of "She leaves." is "She left."
_QUOTE = re.compile(r'"([^"]+)"')
_ARTICLE = re.compile(r"\b(?:a|(?:(?<![^\n])|(?<=[.!?:]\s))A) +(?!(?:is|or|and|because)\b)(?=[a-z])")
_NO_BEFORE = re.compile(r"\bno\s+(?=(\w+))", re.IGNORECASE)
_CLAUSE = re.compile(r"[^.;!?\n]+[.;!?\n]*")
_BEFORE_COLON = re.compile(r"[^\w:]*(\w[^:]*):[ \t*_]+(?=\w)")  # as in "rubber: insulator"
_BARE_SUBJECT = re.compile(r"\W*(?:an? )?(\w+(?: \w+)?) is an? (?=\w)", re.IGNORECASE)  # not as in "The label is spam."
_WRAPPED = re.compile(r'```(?:[\w+#.-]*\n)?(.+?)\n?```|\*\*(.+)\*\*|`([^`]+)`|"(.+)"', re.DOTALL)


def is_right(check: Check, answer: str, question: str) -> bool:
    """Whether `answer` to `question` (instruction and input) is right; raises ValueError for an open check."""
    rules = {
        "exact": _exact,
        "accept": _accept,
        "one_of": _one_of,
        "number": states_numbers,
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

    This excludes the options of a question. Keywords must not come with a line of the question, nor only in a copied
    quote of it or in a line that is a piece of it.
    """
    if check.type == "one_of":
        return False
    words, asked = words_of(answer), words_of(question)
    if check.type == "set":
        lines = [words_of(line) for line in question.splitlines()]
        items = [words_of(_item(line)) for line in answer.splitlines()]
        if any(len(line) > 4 and find_phrase(words, line) for line in lines):
            return True
        rest = _without_quotes(words, question)
        if not all(spans_of(rest, item) for item in check.items):
            return True
        if any(len(item) > 4 and find_phrase(asked, item) for item in items):
            return True
    right = [words_of(text) for text in _right_texts(check)]
    enough = 2 if check.type == "number" and not words[-1].lstrip("-")[0].isdigit() else 1  # a number may have its unit
    return len(words) > enough and words not in right and bool(find_phrase(asked, words))


def _without_quotes(words: list[str], question: str) -> list[str]:
    """The words of an answer without the quotes of the question that it copies."""
    copied = set[int]()
    for quote in map(words_of, _QUOTE.findall(clean(question))):
        for start in find_phrase(words, quote) if len(quote) > 4 else []:
            copied.update(range(start, start + len(quote)))
    return [word for place, word in enumerate(words) if place not in copied]


def _item(line: str) -> str:
    """A line without its list mark and lead-in."""
    return _LEAD_IN.sub("", LIST_MARK.sub("", clean(line), count=1), count=1)


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
    answer = _without_determiners(check.accept, answer)
    words = words_of(answer)
    spans = spans_of(words, check.accept)
    if not spans or is_denied(answer, spans, check.accept, question) or hedges(words, question, check.accept):
        return False
    return not rivals(answer, question, check.accept)


def _one_of(check: Check, answer: str, question: str) -> bool:
    """Exactly one of the options is named, and it is the right one; others may be denied after it."""
    answer = _without_others(check, _without_determiners(check.options, answer), question)
    right, words = check.accept[0], words_of(answer)
    taken: set[int] = set()
    places: dict[str, list[tuple[int, int]]] = {}
    for option in sorted(check.options, key=lambda one: -len(words_of(one))):
        phrase = words_of(option)
        spans = []
        for start in _find_loosely(words, phrase):
            if not taken & set(range(start, start + len(phrase))):
                taken |= set(range(start, start + len(phrase)))
                spans.append((start, start + len(phrase)))
        if spans:
            places[option] = spans
    denied = {option for option, spans in places.items() if is_denied(answer, spans, [option], question)}
    if set(places) - denied != {right} or any(places[option] < places[right] for option in denied):
        return False
    # "or" is allowed here, because a second option would be named.
    return not hedges(words, question, (*check.options, "or", "either"))


def _without_determiners(texts: Sequence[str], answer: str) -> str:
    """The answer without each "no" that belongs to a noun, as in "no fee", where a "no" by itself is an answer."""
    if ["no"] not in map(words_of, texts):
        return answer
    return _NO_BEFORE.sub(lambda found: found[0] if found[1].casefold() in FUNCTION_WORDS else "", answer)


def _without_others(check: Check, answer: str, question: str) -> str:
    """The answer without the clauses that say of another thing what it is.

    The question's thing is its last line. If a clause has it before a colon as in "rubber: insulator", those with
    another word there go; if it is a name of three words at most, "Glass is an insulator" goes.
    """
    thing = words_of(question.splitlines()[-1]) if "\n" in question.strip() else []
    if not thing:
        return answer
    own = FUNCTION_WORDS.union(words_of(question), *map(words_of, check.options))
    clauses = _CLAUSE.findall(answer)
    subjects = [_subject(_BEFORE_COLON, clause) for clause in clauses]
    if thing not in subjects:
        if len(thing) > 3:
            return answer
        subjects = [_subject(_BARE_SUBJECT, clause) for clause in clauses]
    pairs = zip(clauses, subjects, strict=True)
    return "".join(
        clause for clause, subject in pairs if not subject or any(same_word(a, b) for a in subject for b in own)
    )


def _subject(pattern: re.Pattern[str], clause: str) -> list[str]:
    match = pattern.match(clause)
    return words_of(match[1]) if match else []


def _find_loosely(words: list[str], phrase: list[str]) -> list[int]:
    """Where a phrase is, its last word also in the plural."""
    ends = [[*phrase[:-1], phrase[-1] + ending] for ending in ("", "s", "es")]
    return sorted({start for one in ends for start in find_phrase(words, one)})


def _set(check: Check, answer: str, question: str) -> bool:
    words = words_of(answer)
    everything = _right_texts(check)
    if not all(spans_of(words, item) for item in check.items):
        return False
    if is_denied(answer, spans_of(words, everything), everything, question) or hedges(words, question, everything):
        return False
    return not rivals(answer, question, everything)


def _order(check: Check, answer: str, question: str) -> bool:
    """All items once, in this order; the words of one item do not count for another."""
    listed = without_marks(answer)
    words = words_of(listed)
    at = 0
    for item in check.items:
        starts = [(start, end) for start, end in spans_of(words, item) if start >= at]
        if not starts:
            return False
        at = min(starts)[1]
    everything = _right_texts(check)
    if sum(len(spans_of(words, item)) for item in check.items) != len(check.items):
        return False
    if is_denied(listed, spans_of(words, everything), everything, question) or hedges(words, question, everything):
        return False
    return not rivals(answer, question, everything)

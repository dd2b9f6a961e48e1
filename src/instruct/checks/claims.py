"""What makes a right answer wrong: a word of doubt, a denial, or a claim beside it."""

import re
from collections.abc import Sequence
from itertools import takewhile

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
_ITEM_END = re.compile(r"[,;/.!?]|\s(?:and|or)\b")
_SERIES_END = re.compile(r", (?:and|or) (?:\w+ ){0,2}\w+\W*$")  # as in "a, b, and c"
_SERIES_LINK = re.compile(r", (?:(?:and|or) )?")
LIST_MARK = re.compile(r"^(?:[-*•]|\d+[.)])\s+")
_OPENING_NO = re.compile(r"\W*no\s*[,.;:!]\s*\w+\s", re.IGNORECASE)  # "No, it is Lima." but not "No, Lima."
# What calls an answer wrong or replaced, before and after it in the same clause.
_REJECTED = re.compile(
    r"\b(?P<cue>instead of|rather than|any(?:thing|one|where) but|used to be|non"
    r"|(?<!not )(?:false|wrong|incorrect|untrue) (?:that|to say)\b.*)(?: (?:a|an|the))?$"
)
_IS_WRONG = re.compile(r"(?:is|are|was|were) (?:(?:a|an|the) )?(?:\w+ )?(?P<cue>wrong|incorrect|false|untrue)\b")
# Words of a question in which an answer may come after a cue: it asks for the past, or for a fault.
_PAST = """
used was were did had before former formerly once old previous previously earlier original originally
"""
_FAULTS = """
not cannot can't wrong wrongly incorrect incorrectly false untrue error errors mistake mistakes
misspelled misspelt misspelling typo slip myth changing fix
"""
_ASKED = {"used": frozenset(_PAST.split()), "instead": frozenset(["instead"]), "rather": frozenset(["rather"])}
_ASKED_ELSE = frozenset(_FAULTS.split())
_CLAUSE_END = re.compile(r"[.,;:!?\n](?!\d)")
# What may be a claim in the question's words, as in "Lyon is the capital": its subject, its first word and its rest.
_CLAIM = re.compile(r"(?:^|(?<=[.!?;] ))((?:[A-Z]\w+ ){1,3})(?:is|are|was|were) (?:(?:the|a|an) )?(\w+)([^.,;!?]*)")
_DENIED_NAME = re.compile(
    r"\b(?:not|rather than|instead of) (?:(?:in|at|on|by|under|from|the) ){0,2}[A-Z]\w+(?: [A-Z]\w+)*"
)
_QUOTED_CLAIM = re.compile(r'\bis "([^"]+)"')
_AUXILIARIES = frozenset(["is", "are", "was", "were", "does", "do", "did", "has", "have", "had", "can", "will"])
_LINKED = 100  # characters before and after an answer in which the words that are linked to it are
_CLAUSE = 12  # words before and after an answer in which its clause may call it wrong
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
    if _is_rejected(answer, spans, asked):
        return True
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


def _is_rejected(answer: str, spans: Sequence[tuple[int, int]], asked: list[str]) -> bool:
    """Whether a span's clause calls it wrong or replaced, unless the question asks for a fault or the past."""
    places = [(clause, at) for clause in map(words_of, _CLAUSE_END.split(answer)) for at in range(len(clause))]
    for start, end in spans:
        if start >= len(places):
            continue  # a clause ended within a word
        clause, at = places[start]
        after = at + end - start
        found = _REJECTED.search(" ".join(clause[max(0, at - _CLAUSE) : at]))
        found = found or _IS_WRONG.match(" ".join(clause[after : after + _CLAUSE]))
        if found and _ASKED.get(found["cue"].split()[0], _ASKED_ELSE).isdisjoint(asked):
            return True
    return False


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
    text = _without_asides(without_days(clean(answer)), right)
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
    for subject, predicate, rest in _CLAIM.findall(text):
        own = any(same_word(word, one) for word in words_of(subject) for one in allowed | asked)
        repeats = all(any(same_word(word, one) for one in asked | FUNCTION_WORDS) for word in words_of(rest))
        rivals += [subject] if predicate in asked and repeats and not own else []
    quoted = _QUOTED_CLAIM.findall(text) if offered else []
    return rivals + (quoted if not any(spans_of(words_of(one), right) for one in quoted) else [])


def _without_asides(text: str, right: Sequence[str]) -> str:
    """The text without names that it denies; a clause that describes an accepted answer ("Rome, which ...") is "|"."""
    text = _DENIED_NAME.sub("", text)
    for one in right:
        answer = rf"(?<!\w){_inner(words_of(one))}\W*"
        text = re.sub(rf"({answer}), (?:which|who|whose|where)\b[^.,;!?]*", r"\1 |", text, flags=re.IGNORECASE)
    return text


def _inner(words: Sequence[str]) -> str:
    return r"\W+".join(map(re.escape, words))


def _linked(text: str, right: Sequence[str]) -> list[str]:
    """The words that a comma, slash, "and" or "or" links to an accepted answer, on either side as many as it has."""
    found = []
    for one in right:
        words = words_of(one)
        size = len(words)
        phrase = rf"(?:\S*\w\s+){{0,{size - 1}}}\S*"
        after = re.compile(phrase)
        before = re.compile(rf"({phrase}\w)\W*(?:,|/|;|\band\b|\bor\b)\W*(?:(?:a|an|the)\W+)?$", re.IGNORECASE)
        for match in re.finditer(rf"(?<!\w)(?<!\d/)(to )?{_inner(words)}(?!\w|/\d)", text, re.IGNORECASE):
            if link := _LINK.match(text, match.end()):
                start = link.end() + (3 if match[1] and text.startswith("to ", link.end()) else 0)
                linked = after.match(text, start, start + _LINKED)
                if linked and not spans_of(_item_words(text[start : start + _LINKED]), right):
                    found += words_of(linked[0])[:size]
            start = match.start() + len(match[1] or "")
            if linked := before.search(text[max(0, start - _LINKED) : start]):
                found += words_of(linked[1])[-size:]
    return found


def _item_words(text: str) -> list[str]:
    """The words of the list item that a text begins with, up to a function word: "postal address"."""
    return list(takewhile(lambda word: word not in FUNCTION_WORDS, words_of(_ITEM_END.split(text, 1)[0])))


def _listed(answer: str, right: Sequence[str]) -> list[str]:
    """The words of the other items where a list has an accepted answer; without list marks, short lines are items."""
    lines = [line for line in map(clean, _series(answer) or answer.splitlines()) if line]
    marked = [LIST_MARK.sub("", line, count=1) for line in lines if LIST_MARK.match(line)]
    items = marked or [line for line in lines if not _is_sentence(line, 0)]
    others = [item for item in items if not spans_of(words_of(item), right)]
    if len(others) == len(items):
        return []
    short = max(len(words_of(one)) for one in right) + _REACH
    claims = [words_of(item) for item in others if not _is_sentence(item, 3)]
    return [word for words in claims if len(words) <= short for word in words]


def _series(answer: str) -> list[str]:
    """The items of an answer that is one list of three or more in a line, parted by semicolons or commas.

    Not "Lima, the capital of Peru, and its largest city": function words show that the parts describe the answer.
    """
    items = answer.split(";")
    if len(items) < 3 and _SERIES_END.search(answer):
        items = _SERIES_LINK.split(answer)
    is_list = len(items) > 2 and "\n" not in answer.strip()
    return items if is_list and (FUNCTION_WORDS - {"to"}).isdisjoint(words_of(" ".join(items[1:]))) else []


def _is_sentence(line: str, size: int) -> bool:
    """Whether a line is a heading, or ends like a sentence and has more than `size` words."""
    return line.startswith("#") or (line.endswith((".", "!", "?", ":")) and len(words_of(line)) > size)

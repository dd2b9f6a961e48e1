"""The policy filter: patterns that block, mask or flag prompts and answers, in a file that Git tracks.

It searches a text in NFKC without invisible characters, and once more with look-alike letters mapped to Latin ones. It
cuts in the original text. It finds patterns. It does not understand meaning: names and clever wording pass.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from instruct.core.errors import DataError, ParamsError
from instruct.core.params import build, require
from instruct.core.parsing import read_yaml
from instruct.quality.personal import FORMS, KINDS, Search
from instruct.serving.normal import latinised, normalise

Action = Literal["block", "mask", "flag"]
Side = Literal["prompts", "answers"]
MASK = "[removed]"
LONGEST = 500  # characters that a pattern may match; streaming lags by this much
LONGEST_PERSONAL = 128
MARGIN = 2  # characters after a match that `\b` and `$` look at
# Keys and e-mail addresses may be of any length, of these characters alone: such a run at the end may go on.
_UNBOUNDED = ("pii_key", "pii_email")
_RUN = re.compile(r"[\w.+@-]*")
PLAIN, LATIN = 0, 1  # the two texts that are searched


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One pattern: a regular expression, or a kind of personal data that the quality checks know."""

    name: str
    action: Action
    pattern: str = ""
    personal: str = ""
    message: str = ""
    on: tuple[Side, ...] = ("prompts", "answers")
    _compiled: re.Pattern[str] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require("name", self.name, bool(self.name), "given")
        require("pattern", self.pattern, bool(self.pattern) != bool(self.personal), "given, unless personal is")
        require("personal", self.personal, not self.personal or self.personal in KINDS, f"one of {', '.join(KINDS)}")
        require("on", self.on, bool(self.on) and set(self.on) <= {"prompts", "answers"}, "of prompts and answers")
        if self.pattern:
            object.__setattr__(self, "_compiled", _compile(self.pattern))

    @property
    def longest(self) -> int:
        """The most characters that it matches and looks at beyond them."""
        return LONGEST_PERSONAL if self.personal else _reach(self.pattern)

    def searches(self) -> "list[tuple[int, Search | _PatternSearch]]":
        """New searches for all its matches, each with the text that it searches."""
        if self._compiled:
            return [(text, _PatternSearch(self._compiled)) for text in (PLAIN, LATIN)]
        return [(LATIN, Search(form)) for form in FORMS[self.personal]]


@dataclass
class _PatternSearch:
    """Finds a pattern in a text that may grow; `at` is where it goes on."""

    pattern: re.Pattern[str]
    at: int = 0

    def spans(self, text: str, before: int) -> Iterator[tuple[int, int]]:
        """The next matches that begin before an index; none of nothing at all, as behind a lookbehind."""
        for one in self.pattern.finditer(text, self.at) if self.at < before else ():
            if one.start() >= before:
                break
            self.at = one.end()
            if one.group():
                yield one.span()
        self.at = max(self.at, before)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        raise ParamsError(f"pattern must be a regular expression, is not ({error})") from None
    bounded = _parsed(pattern).getwidth()[1] > 0 and _reach(pattern) <= LONGEST
    require("pattern", pattern, bounded, f"of bounded length, up to {LONGEST}: write {{0,40}} instead of *")
    require("pattern", pattern, not compiled.match(""), "one that does not match the empty text")
    for text in _literals(_parsed(pattern)):
        if (searched := normalise(text)[0]) != text:
            cure = f"write {re.escape(searched)} for {text!a}" if searched else f"leave out {text!a}"
            raise ParamsError(f"pattern must be in NFKC without invisible characters, as texts are searched: {cure}")
    return compiled


def _parsed(pattern: str) -> Any:
    return re._parser.parse(pattern, re.IGNORECASE)  # type: ignore[attr-defined]


def _literals(part: Any) -> Iterator[str]:
    """The runs of characters in a parsed pattern, and of each range one end, which NFKC leaves as it is if it can."""
    run = ""
    for one in part:
        kind = str(one[0]) if isinstance(one, tuple) and one else ""
        if kind == "LITERAL":
            run += chr(one[1])
            continue
        yield from [run] if run else []
        run = ""
        if kind == "IN" and len(one[1]) > 1:  # of a set, one member that can be found is enough
            members = [next(_literals([member]), "") for member in one[1]]
            yield next((member for member in members if normalise(member)[0] == member), members[0])
        elif kind == "NOT_LITERAL":
            yield chr(one[1])
        elif kind == "RANGE":
            yield next((end for end in map(chr, one[1]) if normalise(end)[0] == end), chr(one[1][0]))
        elif isinstance(one, list | tuple | type(_parsed(""))):
            yield from _literals(one)
    yield from [run] if run else []


@cache
def _reach(pattern: str) -> int:
    """The most characters from the start of a match to the end of what it depends on."""
    parsed = _parsed(pattern)
    return int(parsed.getwidth()[1]) + _ahead(parsed)


def _ahead(part: Any) -> int:
    """The most characters that lookaheads, which have no width, add to it."""
    if not isinstance(part, list | tuple | type(_parsed(""))):
        return 0
    looks = isinstance(part, tuple) and str(part[0]) in ("ASSERT", "ASSERT_NOT") and part[1][0] > 0
    return sum(map(_ahead, part)) + (int(part[1][1].getwidth()[1]) if looks else 0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Where a rule applies in a text."""

    rule: Rule
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Policy:
    """All rules, in the order of the file."""

    rules: tuple[Rule, ...]

    def on(self, side: Side) -> list[Rule]:
        """The rules for one side."""
        return [rule for rule in self.rules if side in rule.on]

    def find(self, text: str, side: Side) -> list[Finding]:
        """All matches of the rules for one side, in text order."""
        return _Growing(self.on(side)).add(text, final=True)


class _Growing:
    """A text that grows, and what is certain of it, whose new parts alone are normalised and searched.

    `end` is the index up to which matches are known, whatever follows. Its last letter is `_open` to marks that follow.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._searches = [(rule, *search) for rule in rules for search in rule.searches()]
        self._longest = max((rule.longest for rule in rules), default=0) + MARGIN
        self._unbounded = any(rule.personal in _UNBOUNDED for rule in rules)
        self._texts, self._places, self._run = ["", ""], list[tuple[int, int]](), 0
        self.text, self.end, self._open = "", 0, 0

    def add(self, text: str, *, final: bool = False) -> list[Finding]:
        """The matches that have become certain, in text order."""
        self.text += text
        self._take(final)
        certain = len(self._places)
        if not final:
            certain = max(min(certain - self._longest, self._run if self._unbounded else certain), 0)
        self.end = self._places[certain][0] if certain < len(self._places) else self._open
        found = [
            Finding(rule=rule, start=self._places[start][0], end=self._places[end - 1][1])
            for rule, which, search in self._searches
            for start, end, *_ in search.spans(self._texts[which], certain)
        ]
        return sorted(dict.fromkeys(found), key=_in_text_order)

    def _take(self, final: bool) -> None:
        """Normalise the text up to its last letter, or to its end."""
        start, (normal, places) = self._open, normalise(self.text[self._open :])
        if final:
            self._open = len(self.text)
        elif places:
            self._open += places[-1][0]
            places = [one for one in places if one != places[-1]]
        new = latinised(normal[: len(places)])
        if rest := len(new) - _RUN.match(new[::-1]).end():  # type: ignore[union-attr]  # it matches any text
            self._run = len(self._places) + rest
        self._texts[PLAIN] += normal[: len(places)]
        self._texts[LATIN] += new
        self._places += [(start + begin, start + end) for begin, end in places]


def _in_text_order(one: Finding) -> tuple[int, int]:
    return one.start, -one.end


def read_policy(path: str | Path) -> Policy | None:
    """The rules of a file, or None for the path ""; raises DataError or ParamsError that names the rule."""
    if not str(path):
        return None
    values = read_yaml(Path(path))
    if not isinstance(values, list) or not values:
        raise DataError(f"{path}: must be a list of rules, each with name, action, and pattern or personal")
    return Policy(rules=tuple(_rule(value, f"{path}: rule {place + 1}") for place, value in enumerate(values)))


def _rule(value: Any, where: str) -> Rule:
    if isinstance(value, Mapping) and "_compiled" in value:
        raise ParamsError(f"{where}._compiled is not a setting")
    return build(Rule, value, where=where)


class PolicyStream:
    """Filters a growing text; output lags by the longest pattern, so that no part of a match is shown.

    `blocked` is the rule that ended it, `applied` are all rules that found something. What is found in `before`, a text
    that it goes on from, does not count; what is found across both does.
    """

    def __init__(self, policy: Policy | None, side: Side, before: str = "") -> None:
        rules = policy.on(side) if policy else []
        self._growing, self._found = _Growing(rules) if rules else None, list[Finding]()
        self._given = self._begin = len(before)
        self.blocked: Rule | None = None
        self.applied: list[Rule] = []
        if self._growing:
            self._growing.add(before)

    def push(self, text: str, *, final: bool = False) -> str:
        """The part of the text so far that may be shown and has not been."""
        if self._growing is None:
            return text
        if self.blocked:
            return ""
        new = [one for one in self._growing.add(text, final=final) if one.end > self._begin]
        self._found += [replace(one, start=max(one.start, self._begin)) for one in new]
        self._found.sort(key=_in_text_order)
        shown = self._release(self._growing.text, self._growing.end)
        self._found = [one for one in self._found if one.start >= self._growing.end]
        return shown

    def split(self, first: str, second: str) -> tuple[str, str]:
        """Two texts with a line break between them, filtered as one; what is masked across it ends the first."""
        if self._growing is None:
            return first, second
        self._found = self._growing.add(f"{first}\n{second}", final=True)
        shown = self._release(self._growing.text, len(first) + 1).removesuffix("\n")
        return shown, self._release(self._growing.text, self._growing.end)

    def _release(self, seen: str, end: int) -> str:
        """The text up to `end`, without what is masked; a block ends it, also inside of what another rule masks."""
        block = next((one for one in self._found if one.rule.action == "block" and one.start < end), None)
        if block:
            end, self.blocked = block.start, block.rule
        parts = []
        for one in self._found:
            if one.start >= end:
                break
            self._note(one.rule)
            if one.rule.action == "mask" and one.end > self._given:
                parts += [seen[self._given : one.start], MASK if one.start >= self._given else ""]
                self._given = one.end
        if end > self._given:
            parts.append(seen[self._given : end])
            self._given = end
        if block:
            self._note(block.rule)
        return "".join(parts)

    def _note(self, rule: Rule) -> None:
        if rule not in self.applied:
            self.applied.append(rule)


def filter_text(policy: Policy | None, text: str, side: Side) -> tuple[str, PolicyStream]:
    """A whole text, filtered, with its matches."""
    stream = PolicyStream(policy, side)
    return stream.push(text, final=True), stream

"""The policy filter: patterns that block, mask or flag prompts and answers, in a file that Git tracks.

It searches normalised text (NFKC, no invisible characters, look-alike letters mapped to Latin ones) and cuts in the
original text. It finds patterns. It does not understand meaning: names and clever wording pass.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

from instruct.core.errors import DataError, ParamsError
from instruct.core.params import build, require
from instruct.core.parsing import read_yaml
from instruct.quality.personal import FORMS, KINDS, Search

Action = Literal["block", "mask", "flag"]
Side = Literal["prompts", "answers"]
MASK = "[removed]"
LONGEST = 500  # characters that a pattern may match; streaming lags by this much
LONGEST_PERSONAL = 128
MARGIN = 2  # characters after a match that `\b` and `$` look at
# Keys and e-mail addresses may be of any length, of these characters alone: such a run at the end may go on.
_UNBOUNDED = ("pii_key", "pii_email")
_RUN = re.compile(r"[\w.+@-]*")
# Unicode's Default_Ignorable_Code_Point, as ranges, without the category Cf. NFKC turns U+3164 and U+FFA0 into U+1160.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\ufe00-\ufe0f\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
# Letters of other scripts that look like Latin ones (from Unicode's confusables.txt); full-width ones are NFKC's.
_LOOK_ALIKE = str.maketrans(
    "АВЕЗКМНОРСТУХІЈЅаеорсухіјѕԁһӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧαιονρυ",
    "ABE3KMHOPCTYXIJSaeopcyxijsdhlABEZHIKMNOPTYXaiovpu",
)


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

    def searches(self) -> "list[Search | _PatternSearch]":
        """New searches for all its matches."""
        return [_PatternSearch(self._compiled)] if self._compiled else list(map(Search, FORMS[self.personal]))


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
    return compiled


def _parsed(pattern: str) -> Any:
    return re._parser.parse(pattern, re.IGNORECASE)  # type: ignore[attr-defined]


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
    """A text that grows, and what is certain of it: each character is normalised once, and searched about once.

    `end` is the index up to which matches are known, whatever follows.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._searches = [(rule, search) for rule in rules for search in rule.searches()]
        self._longest = max((rule.longest for rule in rules), default=0) + MARGIN
        self._unbounded = any(rule.personal in _UNBOUNDED for rule in rules)
        self._normal, self._places, self._run = "", list[int](), 0
        self.text, self.end = "", 0

    def add(self, text: str, *, final: bool = False) -> list[Finding]:
        """The matches that have become certain, in text order."""
        normal, places = normalise(text)
        if rest := len(normal) - _RUN.match(normal[::-1]).end():  # type: ignore[union-attr]  # it matches any text
            self._run = len(self._normal) + rest
        self._places += [len(self.text) + place for place in places]
        self._normal += normal
        self.text += text
        certain = len(self._normal)
        if not final:
            certain = max(min(certain - self._longest, self._run if self._unbounded else certain), 0)
        self.end = self._places[certain] if certain < len(self._places) else len(self.text)
        found = [
            Finding(rule=rule, start=self._places[start], end=self._places[end - 1] + 1)
            for rule, search in self._searches
            for start, end, *_ in search.spans(self._normal, certain)
        ]
        return sorted(found, key=_in_text_order)


def _in_text_order(one: Finding) -> tuple[int, int]:
    return one.start, -one.end


def normalise(text: str) -> tuple[str, list[int]]:
    r"""The normalised text, and the index of each of its characters in the original.

    >>> normalise("\uff21\u200bb\u0421")
    ('AbC', [0, 2, 3])
    """
    if text.isascii():
        return text, list(range(len(text)))
    letters = list(map(_letters, text))
    return "".join(letters), [place for place, some in enumerate(letters) for _ in some]


@lru_cache(1 << 16)
def _letters(character: str) -> str:
    """What a character is searched as; nothing if it is invisible."""
    return "".join(
        letter
        for letter in unicodedata.normalize("NFKC", character).translate(_LOOK_ALIKE)
        if unicodedata.category(letter) != "Cf" and not _IGNORABLE.match(letter)
    )


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

    `blocked` is the rule that ended it, `applied` are all rules that found something.
    """

    def __init__(self, policy: Policy | None, side: Side) -> None:
        rules = policy.on(side) if policy else []
        self._growing, self._found = _Growing(rules) if rules else None, list[Finding]()
        self._given = 0
        self.blocked: Rule | None = None
        self.applied: list[Rule] = []

    def push(self, text: str, *, final: bool = False) -> str:
        """The part of the text so far that may be shown and has not been."""
        if self._growing is None:
            return text
        if self.blocked:
            return ""
        self._found = sorted([*self._found, *self._growing.add(text, final=final)], key=_in_text_order)
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

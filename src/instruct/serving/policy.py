"""The policy filter: patterns that block, mask or flag prompts and answers, in a file that Git tracks.

It searches normalised text (NFKC, no invisible characters, look-alike letters mapped to Latin ones) and cuts in the
original text. It finds patterns. It does not understand meaning: names and clever wording pass.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from instruct.core.errors import DataError, ParamsError
from instruct.core.params import build, require
from instruct.core.parsing import read_yaml
from instruct.quality.personal import KINDS, spans

Action = Literal["block", "mask", "flag"]
Side = Literal["prompts", "answers"]
MASK = "[removed]"
LONGEST = 500  # characters that a pattern may match; streaming lags by this much
LONGEST_PERSONAL = 128
# The end of a text that may become a match longer than LONGEST_PERSONAL: a web token has no match before its third
# part, and an e-mail address ends with its domain.
_GROWING = {
    "pii_key": re.compile(r"\beyJ[\w-]*(?:\.[\w-]*){0,2}\Z"),
    "pii_email": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[A-Za-z0-9.-]*\Z"),
}
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

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where it matches; not where it matches nothing at all, as a pattern behind a lookbehind may."""
        if self._compiled:
            return [one.span() for one in self._compiled.finditer(text) if one.group()]
        return [(one.start, one.end) for one in spans(self.personal, text)]


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

    def longest(self, side: Side) -> int:
        """The characters by which a stream is held back."""
        return max((rule.longest for rule in self.rules if side in rule.on), default=0)

    def unfinished(self, normal: str, side: Side) -> int:
        """Where personal data of any length begins that may go on, else the length of the text."""
        growing = [_GROWING[rule.personal] for rule in self.rules if side in rule.on and rule.personal in _GROWING]
        return min((found.start() for one in growing if (found := one.search(normal))), default=len(normal))

    def find(self, text: str, side: Side) -> list[Finding]:
        """All matches of the rules for one side, in text order."""
        normal, places = normalise(text)
        found = [
            Finding(rule=rule, start=places[start], end=places[end - 1] + 1)
            for rule in self.rules
            if side in rule.on
            for start, end in rule.places(normal)
        ]
        return sorted(found, key=lambda one: (one.start, -one.end))


def normalise(text: str) -> tuple[str, list[int]]:
    r"""The normalised text, and the index of each of its characters in the original.

    >>> normalise("\uff21\u200bb\u0421")
    ('AbC', [0, 2, 3])
    """
    if text.isascii():
        return text, list(range(len(text)))
    letters, places = list[str](), list[int]()
    for place, character in enumerate(text):
        for letter in unicodedata.normalize("NFKC", character).translate(_LOOK_ALIKE):
            if unicodedata.category(letter) != "Cf" and not "\ufe00" <= letter <= "\ufe0f":
                letters.append(letter)
                places.append(place)
    return "".join(letters), places


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
        self._policy, self._side = policy, side
        self._kept = policy.longest(side) if policy else 0
        self._seen, self._given = "", 0
        self.blocked: Rule | None = None
        self.applied: list[Rule] = []

    def push(self, text: str, *, final: bool = False) -> str:
        """The part of the text so far that may be shown and has not been."""
        if self._policy is None:
            return text
        self._seen += text
        if self.blocked:
            return ""
        end = len(self._seen)
        if not final:
            normal, places = normalise(self._seen)
            certain = min(len(places) - self._kept, self._policy.unfinished(normal, self._side))
            end = [*places, end][certain] if certain > 0 else 0
        return self._release(self._policy.find(self._seen, self._side), end)

    def _release(self, findings: Sequence[Finding], end: int) -> str:
        """The text up to `end`, without what is masked; a block ends it, also inside of what another rule masks."""
        block = next((one for one in findings if one.rule.action == "block" and one.start < end), None)
        if block:
            end, self.blocked = block.start, block.rule
        parts = []
        for one in findings:
            if one.start >= end:
                break
            self._note(one.rule)
            if one.rule.action == "mask" and one.end > self._given:
                parts += [self._seen[self._given : one.start], MASK if one.start >= self._given else ""]
                self._given = one.end
        if end > self._given:
            parts.append(self._seen[self._given : end])
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

"""Finds likely personal data and secrets: patterns with valid check digits, without documented placeholders.

A hit is a warning, not a proof. It says where it is and never quotes the text, because reports are kept in Git.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from instruct.core.records import Example
from instruct.quality.hits import TEXTS, Hit

# RFC 2606 and RFC 6761 reserve these for examples.
_EXAMPLE_DOMAIN = re.compile(r"@(?:[\w-]+\.)*(?:example\.(?:com|net|org)|[\w-]+\.(?:example|test|invalid))$", re.I)
_DIGITS = re.compile(r"[+(]?\d[\d ().\-\u2011/]{5,30}\d")
_CARD_ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[04-9]|6")
# Numbers reserved for fiction, and common placeholders.
_FICTION = re.compile(r"555[ .-]?01\d\d$|^\D*(?:1\D)?555\D*555|(\d)(?:\D*\1){5}|1?\D*234\D*567\D*8901$")


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of personal data: every match contains `part` and passes `is_real`.

    `pattern` also looks at the character before a match; `begun` takes the match to be at the beginning of a text.
    """

    part: str
    begun: re.Pattern[str]
    pattern: re.Pattern[str]
    called: str
    is_real: Callable[[str], bool]


class Span(NamedTuple):
    """Where something personal is, and what it is called."""

    start: int
    end: int
    called: str


def find_personal(example: Example) -> Iterator[Hit]:
    """`pii_email`, `pii_phone`, `pii_card` and `pii_key`, at most one of each per field."""
    for name in TEXTS:
        text: str = getattr(example, name)
        # Cards, accounts and phone numbers are runs of digits; one quick search skips the rest for most texts.
        numbers = _first("pii_card", text) or _first("pii_phone", text) if _DIGITS.search(text) else None
        for found in (_first("pii_email", text), numbers, _first("pii_key", text)):
            if found:
                kind, span = found
                yield Hit(kind, name, f"holds what looks like {span.called} at character {span.start}")


def _first(kind: str, text: str) -> tuple[str, Span] | None:
    span = min(spans(kind, text), default=None)
    return span and (kind, span)


def spans(kind: str, text: str) -> Iterator[Span]:
    """All places in a text that look like one of `KINDS`, form by form; those of two forms may overlap."""
    for form in FORMS[kind]:
        yield from Search(form).spans(text, len(text))


@dataclass
class Search:
    """Finds one form in a text that may grow; `at` is where it goes on.

    After each match it goes on as if the text began there, so that what precedes it cannot hide the next.
    """

    form: Form
    at: int = 0
    _begins: bool = True

    def spans(self, text: str, before: int) -> Iterator[Span]:
        """The next matches that begin before an index."""
        while self.at < before and (found := self._next(text)) and found.start() < before:
            self.at, self._begins = found.end(), self.form.is_real(found.group())
            if self._begins:
                yield Span(*found.span(), self.form.called)
        if self.at < before:
            self.at, self._begins = before, False

    def _next(self, text: str) -> re.Match[str] | None:
        if text.find(self.form.part, self.at) < 0:
            return None
        here = self.form.begun.match(text, self.at) if self._begins else None
        return here or self.form.pattern.search(text, self.at)


def _is_email(text: str) -> bool:
    return not _EXAMPLE_DOMAIN.search(text)


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return bool(_CARD_ISSUER.match(digits)) and len(set(digits)) > 1 and _luhn(digits)


def _is_phone(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return (8 if text[0] == "+" else 10) <= len(digits) <= 15 and not _FICTION.search(text)


def _is_key(text: str) -> bool:
    """Whether a key has as many distinct characters as a random one; placeholders (`sk-xxxxx`) have fewer."""
    return "EXAMPLE" not in text and (text.startswith("-----") or len(set(text)) >= 12)


def _luhn(digits: str) -> bool:
    """The check digit of cards (ISO/IEC 7812-1)."""
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    """The check digits of bank accounts (ISO 13616)."""
    account = text.replace(" ", "")
    if not 15 <= len(account) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1


def _is_web_token(text: str) -> bool:
    return "." in text and _is_key(text)


def _form(part: str, after: str, begun: str, called: str, is_real: Callable[[str], bool] = _is_key) -> Form:
    return Form(part=part, begun=re.compile(begun), pattern=re.compile(after + begun), called=called, is_real=is_real)


FORMS: Mapping[str, tuple[Form, ...]] = {
    "pii_email": (
        _form(
            "@",
            r"(?<![\w.+-])",
            r"[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+([A-Za-z]{2,24})(?![\w-])",
            "an e-mail address",
            _is_email,
        ),
    ),
    "pii_phone": (
        _form(
            "",
            r"(?<![\w.+*/=-])",
            r"(?:\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"  # +44 20 7946 0958
            r"|(?:1[ .-])?\([2-9]\d{2}\) ?[2-9]\d{2}[-. ]\d{4}"  # (212) 736-5000
            r"|(?:1[.-])?[2-9]\d{2}([.-])[2-9]\d{2}\1\d{4}"  # 212-736-5000
            r")(?![\w/*=]|[.,-]\d| [=+*/])",
            "a phone number",
            _is_phone,
        ),
    ),
    "pii_card": (
        _form("", r"(?<![\d.,-])", r"\d(?:[ -]?\d){12,18}(?![\d.,-]?\d)", "a card number", _is_card),
        _form(
            "",
            r"(?<![A-Za-z0-9])",
            r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])",
            "a bank account number",
            _is_iban,
        ),
    ),
    "pii_key": (
        _form("-----BEGIN", "", r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY-----", "a private key"),
        _form("AKIA", r"\b", r"AKIA[A-Z2-7]{16}\b", "an AWS access key"),
        _form("ASIA", r"\b", r"ASIA[A-Z2-7]{16}\b", "an AWS access key"),
        _form("AIza", r"\b", r"AIza[\w-]{35}(?![\w-])", "a Google API key"),
        _form("gh", r"\b", r"gh[pousr]_[A-Za-z0-9]{36,}\b", "a GitHub token"),
        _form("github_pat_", r"\b", r"github_pat_\w{40,}\b", "a GitHub token"),
        _form("glpat-", r"\b", r"glpat-[\w-]{20,}", "a GitLab token"),
        _form("hf_", r"\b", r"hf_[A-Za-z]{34}\b", "a Hugging Face token"),
        _form("sk", r"\b", r"sk[-_](?:live_|ant-|proj-)?[\w-]{20,}", "a secret key"),
        _form("xox", r"\b", r"xox[abeoprs]-[\w-]{10,}", "a Slack token"),
        # Other text matches up to its first dot, so that it is not read again from each `eyJ` in it.
        _form("eyJ", r"\b", r"eyJ[\w-]{8,}(?:\.eyJ[\w-]{8,}\.[\w-]{8,})?", "a JSON web token", _is_web_token),
    ),
}
KINDS = tuple(FORMS)

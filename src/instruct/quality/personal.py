"""Finds likely personal data and secrets: patterns with valid check digits, without documented placeholders.

A hit is a warning, not a proof. It says where it is and never quotes the text, because reports are kept in Git.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from instruct.core.records import Example
from instruct.quality.hits import TEXTS, Hit

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+([A-Za-z]{2,24})(?![\w-])")
# RFC 2606 and RFC 6761 reserve these for examples.
_EXAMPLE_DOMAIN = re.compile(r"@(?:[\w-]+\.)*(?:example\.(?:com|net|org)|[\w-]+\.(?:example|test|invalid))$", re.I)
_DIGITS = re.compile(r"[+(]?\d[\d ().\-\u2011/]{5,30}\d")
_CARD = re.compile(r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d.,-]?\d)")
_CARD_ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[04-9]|6")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])")
_PHONE = re.compile(
    r"(?<![\w.+*/=-])(?:"
    r"\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"  # +44 20 7946 0958
    r"|(?:1[ .-])?\([2-9]\d{2}\) ?[2-9]\d{2}[-. ]\d{4}"  # (212) 736-5000
    r"|(?:1[.-])?[2-9]\d{2}([.-])[2-9]\d{2}\1\d{4}"  # 212-736-5000
    r")(?![\w/*=]|[.,-]\d| [=+*/])"
)
# Numbers reserved for fiction, and common placeholders.
_FICTION = re.compile(r"555[ .-]?01\d\d$|^\D*(?:1\D)?555\D*555|(\d)(?:\D*\1){5}|1?\D*234\D*567\D*8901$")


@dataclass(frozen=True, kw_only=True)
class _Form:
    """One form of personal data: every match contains `part` and passes `is_real`."""

    part: str
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
    for form in _FORMS[kind]:
        if form.part in text:
            yield from _spans_of(form, text)


def _spans_of(form: _Form, text: str) -> Iterator[Span]:
    """After each match the search starts again as if the text did, so that what precedes it cannot hide the next."""
    start = 0
    while found := next((one for one in form.pattern.finditer(text[start:]) if form.is_real(one.group())), None):
        yield Span(start + found.start(), start + found.end(), form.called)
        start += found.end()


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


def _key(part: str, pattern: str, called: str) -> _Form:
    return _Form(part=part, pattern=re.compile(pattern), called=called, is_real=_is_key)


_FORMS: Mapping[str, tuple[_Form, ...]] = {
    "pii_email": (_Form(part="@", pattern=_EMAIL, called="an e-mail address", is_real=_is_email),),
    "pii_phone": (_Form(part="", pattern=_PHONE, called="a phone number", is_real=_is_phone),),
    "pii_card": (
        _Form(part="", pattern=_CARD, called="a card number", is_real=_is_card),
        _Form(part="", pattern=_IBAN, called="a bank account number", is_real=_is_iban),
    ),
    "pii_key": (
        _key("-----BEGIN", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----", "a private key"),
        _key("AKIA", r"\bAKIA[A-Z2-7]{16}\b", "an AWS access key"),
        _key("ASIA", r"\bASIA[A-Z2-7]{16}\b", "an AWS access key"),
        _key("AIza", r"\bAIza[\w-]{35}(?![\w-])", "a Google API key"),
        _key("gh", r"\bgh[pousr]_[A-Za-z0-9]{36,}\b", "a GitHub token"),
        _key("github_pat_", r"\bgithub_pat_\w{40,}\b", "a GitHub token"),
        _key("glpat-", r"\bglpat-[\w-]{20,}", "a GitLab token"),
        _key("hf_", r"\bhf_[A-Za-z]{34}\b", "a Hugging Face token"),
        _key("sk", r"\bsk[-_](?:live_|ant-|proj-)?[\w-]{20,}", "a secret key"),
        _key("xox", r"\bxox[abeoprs]-[\w-]{10,}", "a Slack token"),
        _key("eyJ", r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}", "a JSON web token"),
    ),
}
KINDS = tuple(_FORMS)

"""Finds likely personal data and secrets: patterns with valid check digits, without documented placeholders.

A hit is a warning, not a proof. It says where it is and never quotes the text, because reports are kept in Git.
"""

import re
from collections.abc import Callable, Iterator, Mapping

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
_KEYS = (
    ("-----BEGIN", re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"), "a private key"),
    ("AKIA", re.compile(r"\bAKIA[A-Z2-7]{16}\b"), "an AWS access key"),
    ("ASIA", re.compile(r"\bASIA[A-Z2-7]{16}\b"), "an AWS access key"),
    ("AIza", re.compile(r"\bAIza[\w-]{35}(?![\w-])"), "a Google API key"),
    ("gh", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}\b"), "a GitHub token"),
    ("github_pat_", re.compile(r"\bgithub_pat_\w{40,}\b"), "a GitHub token"),
    ("glpat-", re.compile(r"\bglpat-[\w-]{20,}"), "a GitLab token"),
    ("hf_", re.compile(r"\bhf_[A-Za-z]{34}\b"), "a Hugging Face token"),
    ("sk", re.compile(r"\bsk[-_](?:live_|ant-|proj-)?[\w-]{20,}"), "a secret key"),
    ("xox", re.compile(r"\bxox[abeoprs]-[\w-]{10,}"), "a Slack token"),
    ("eyJ", re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"), "a JSON web token"),
)


def find_personal(example: Example) -> Iterator[Hit]:
    """`pii_email`, `pii_phone`, `pii_card` and `pii_key`, at most one of each per field."""
    for name in TEXTS:
        text: str = getattr(example, name)
        if "@" in text and (email := _email(text)):
            yield _hit("pii_email", name, "an e-mail address", email)
        # Cards, accounts and phone numbers are runs of digits; one quick search skips the rest for most texts.
        if _DIGITS.search(text):
            if found := _card(text):
                called = "a card number" if found.group()[0].isdigit() else "a bank account number"
                yield _hit("pii_card", name, called, found)
            elif phone := _phone(text):
                yield _hit("pii_phone", name, "a phone number", phone)
        for beginning, pattern, called in _KEYS:
            if beginning in text and (key := _secret(pattern, text)):
                yield _hit("pii_key", name, called, key)
                break


def _hit(finding: str, name: str, called: str, found: re.Match[str]) -> Hit:
    return Hit(finding, name, f"holds what looks like {called} at character {found.start()}")


def _email(text: str) -> re.Match[str] | None:
    return next((found for found in _EMAIL.finditer(text) if not _EXAMPLE_DOMAIN.search(found.group())), None)


def _card(text: str) -> re.Match[str] | None:
    for found in _CARD.finditer(text):
        digits = re.sub(r"\D", "", found.group())
        if _CARD_ISSUER.match(digits) and len(set(digits)) > 1 and _luhn(digits):
            return found
    return next((found for found in _IBAN.finditer(text) if _is_iban(found.group())), None)


def _phone(text: str) -> re.Match[str] | None:
    for found in _PHONE.finditer(text):
        number = found.group()
        digits = re.sub(r"\D", "", number)
        if (8 if number[0] == "+" else 10) <= len(digits) <= 15 and not _FICTION.search(number):
            return found
    return None


def _secret(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """A key with as many distinct characters as a random one; placeholders (`sk-xxxxx`) have fewer."""
    for found in pattern.finditer(text):
        key = found.group()
        if "EXAMPLE" not in key and (key.startswith("-----") or len(set(key)) >= 12):
            return found
    return None


def _key(text: str) -> re.Match[str] | None:
    return next((key for part, pattern, _ in _KEYS if part in text and (key := _secret(pattern, text))), None)


# The first place in a text that looks like each kind, or None.
LOOKS: Mapping[str, Callable[[str], re.Match[str] | None]] = {
    "pii_email": _email,
    "pii_phone": _phone,
    "pii_card": _card,
    "pii_key": _key,
}


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

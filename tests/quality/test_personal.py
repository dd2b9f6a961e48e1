import random

import pytest
from fuzz import examples
from hypothesis import given
from hypothesis import strategies as st
from quality_records import example, found

from instruct.quality.personal import FORMS, KINDS, find_personal, spans

# Numbers that the card schemes and payment services publish for tests.
CARDS = ["4242424242424242", "5555 5555 5555 4444", "378282246310005", "6011-1111-1111-1117", "3566002020360505"]
# Examples of the IBAN registry.
ACCOUNTS = ["GB29 NWBK 6016 1331 9268 19", "DE89370400440532013000", "NO93 8601 1117 947"]


def secret(beginning, length, alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"):
    rng = random.Random(beginning)
    return beginning + "".join(rng.choices(alphabet, k=length))


KEYS = [
    secret("AKIA", 16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
    secret("AIza", 35),
    secret("ghp_", 36),
    secret("github_pat_", 82),
    secret("glpat-", 20),
    secret("hf_", 34, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    secret("sk-proj-", 40),
    secret("sk_live_", 24),
    secret("xoxb-", 30),
    f"{secret('eyJ', 20)}.{secret('eyJ', 30)}.{secret('', 40)}",
    "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIE",
]


def findings(text):
    return found(find_personal(example(text)))


@pytest.mark.parametrize(
    "address", ["ann.lee@mail.org", "a+b_c@sub.domain.co.uk", "x@y.io", "Write to ann@firm.com, please."]
)
def test_e_mail_addresses_are_found(address):
    assert findings(f"Here: {address}") == ["pii_email"]


@pytest.mark.parametrize(
    "text",
    [
        "ann@example.com",
        "someone@mail.example.org",
        "root@server.test",
        "a@b",
        "@handle and @other.thing",
        "3 @ 5.00 each",
        "me@",
        "f@g(x).h",
        "user@localhost",
    ],
)
def test_examples_and_handles_are_no_address(text):
    assert findings(text) == []


@pytest.mark.parametrize("number", CARDS)
def test_cards_with_a_right_check_digit_are_found_and_others_not(number):
    assert findings(f"Pay with {number}.") == ["pii_card"]
    last = str((int(number[-1]) + 1) % 10)
    assert "pii_card" not in findings(f"Pay with {number[:-1]}{last}.")


@pytest.mark.parametrize("account", ACCOUNTS)
def test_bank_accounts_with_right_check_digits_are_found_and_others_not(account):
    assert findings(f"To {account}, please") == ["pii_card"]
    wrong = account[:2] + str((int(account[2]) + 1) % 10) + account[3:]
    assert findings(f"To {wrong}, please") == []


@pytest.mark.parametrize(
    "number",
    [
        "+44 20 7946 0958",
        "+1 212 736 5000",
        "(212) 736-5000",
        "212-736-5000",
        "1-800-736-5000",
        "+49 (30) 901820",
        "+33 1 42 68 53 00",
    ],
)
def test_phone_numbers_are_found(number):
    assert findings(f"Call {number} now.") == ["pii_phone"]


@pytest.mark.parametrize(
    "text",
    [
        "3.14159265358979",
        "1,000,000,000,000",
        "2024-11-21 15:30:00",
        "ISBN 978-3-16-148410-0",
        "123-456-7890",
        "555-555-5555",
        "(212) 555-0142",
        "+1 212 555 0199",
        "12 + 34567890 = 34567902",
        "2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048",
        "299 792 458 m/s",
        "1 000 000 000",
        "6.02214076e23",
        "0000 0000 0000 0000",
        "192.168.100.200",
        "1914-1918, 1939-1945",
        "5,000,000 - 4,999,999 = 1",
        "212-736-5000 = -5524 in sums",
    ],
)
def test_other_numbers_are_nothing_personal(text):
    assert findings(text) == []


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_found(key):
    assert findings(f"Use {key}\n") == ["pii_key"]


@pytest.mark.parametrize(
    ("text", "called"),
    [
        (f"{ACCOUNTS[0]}, or {CARDS[0]}", "a bank account number at character 0"),
        (f"{CARDS[0]}, or {ACCOUNTS[0]}", "a card number at character 0"),
        (f"{KEYS[8]}, or {KEYS[0]}", "a Slack token at character 0"),
    ],
)
def test_a_hit_tells_the_first_of_its_kind(text, called):
    assert [hit.what for hit in find_personal(example(text))] == [f"holds what looks like {called}"]


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "a task-oriented-and-very-long-compound-word",
        "ghp_123",
    ],
)
def test_placeholders_are_no_keys(text):
    assert findings(text) == []


@pytest.mark.parametrize("field", ["instruction", "input", "output"])
def test_a_hit_names_the_field_and_never_quotes(field):
    secrets = ["ann.lee@mail.org", "4242424242424242", KEYS[0]]
    hits = list(find_personal(example(**{field: " and ".join(secrets)})))
    assert sorted(hit.finding for hit in hits) == ["pii_card", "pii_email", "pii_key"]
    assert {hit.field for hit in hits} == {field}
    assert not [hit for hit in hits if any(secret[:6] in hit.what for secret in secrets)]


SEVERAL = [
    "jo@nord.de",
    "+",
    "an@nord.de",
    "a@example.com",
    CARDS[0],
    ACCOUNTS[0],
    " ",
    "-",
    ".",
    "1",
    "(212) 736-5000",
]


@examples(200)
@given(st.sampled_from(KINDS), st.lists(st.sampled_from(SEVERAL + KEYS), max_size=12))
def test_after_a_match_the_search_goes_on_as_if_the_text_began_there(kind, parts):
    text, expected = "".join(parts), []
    for form in FORMS[kind]:
        start = 0
        while one := next((one for one in form.pattern.finditer(text[start:]) if form.is_real(one.group())), None):
            expected.append((start + one.start(), start + one.end(), form.called))
            start += one.end()
    assert list(spans(kind, text)) == expected


class Counted(str):
    """Counts the characters that are copied out of it."""

    copied = 0

    def __getitem__(self, place):
        part = str(self)[place]
        Counted.copied += len(part)
        return part


@pytest.mark.parametrize("kind", KINDS)
def test_no_part_of_a_text_is_copied_to_search_the_rest(kind):
    text = Counted(" ".join(["jo@nord.de", CARDS[0], ACCOUNTS[0], KEYS[0], "(212) 736-5000"] * 50))
    assert len(list(spans(kind, text))) == (100 if kind == "pii_card" else 50)
    assert Counted.copied == 0

"""Masks an API key that must not be shown or stored, in any form in which a server returns it."""

import html
import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

LEAST = 16  # characters; a shorter key is a placeholder such as EMPTY, and a word that messages may hold
MASK = "***"


class Mask:
    """Puts *** in place of a key; without a key, or with a placeholder, it changes nothing."""

    def __init__(self, key: str) -> None:
        forms = sorted(set(_forms(key)), key=len, reverse=True) if len(key) >= LEAST else []
        self._pattern = re.compile("|".join(map(re.escape, forms))) if forms else None

    def text(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._pattern else text

    def value(self, value: Any) -> Any:
        """A JSON value without the key in any text or name of it."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(one) for name, one in value.items()}
        return value


def _forms(key: str) -> Iterator[str]:
    """The key as it is, escaped for JSON, HTML and addresses, and inside any text in base64."""
    quoted = quote(key, safe="")
    yield from (key, key.replace("/", "\\/"), html.escape(key), quoted)
    yield re.sub("%..", lambda sign: sign[0].lower(), quoted)
    for before in range(3):  # bytes before the key decide how its bits fall into signs
        encoded = b64encode(b"\0" * before + key.encode()).decode()
        inner = encoded[(before * 8 + 5) // 6 : (before + len(key)) * 8 // 6]
        yield from (inner, inner.translate(str.maketrans("+/", "-_")))

"""Characters that no one typed: control characters, invisible ones, and traces of a wrong decoding."""

import re
from collections.abc import Iterator

import ftfy
from ftfy.badness import is_bad

from instruct.core.records import Example
from instruct.quality.hits import TEXTS, Hit

# CR LF is a line break; a carriage return alone is not.
_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
# Beyond ASCII: invisible characters without a use inside a word (U+200C and U+200D join letters and emoji), overrides
# of the writing direction, tags (they hide text from the reader) and unassigned code points.
_HIDDEN = re.compile(
    "[\u00ad\u2028\u2029\u202d\u202e\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb"
    "\ue000-\uf8ff\ufdd0-\ufdef\U000e0000-\U000e007f\U000f0000-\U0010ffff]"
)
# Invisible characters that a script needs: U+200B separates the words of scripts without blanks.
_IN_ITS_SCRIPT = {
    "\u200b": "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf",
    "\u061c": "\u0590-\u08ff",
    "\u180e": "\u1800-\u18af",
}
_ELSEWHERE = re.compile(
    "|".join(f"(?<![{letters}{mark}]){mark}(?![{letters}{mark}])" for mark, letters in _IN_ITS_SCRIPT.items())
)
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")
_C1 = re.compile("[\x80-\x84\x86-\x9f]")
_ESCAPE = re.compile(r"(?<!\\)\\u[0-9a-fA-F]{4}|(?<!\\)\\x[c-fC-F][0-9a-fA-F]\\x[89abAB][0-9a-fA-F]")
_ENTITY = re.compile(r"&(?:#\d{2,6}|#[xX][0-9a-fA-F]{2,5}|amp|quot|apos|nbsp|lt|gt|[mn]dash|[lr][sd]quo|hellip);")
_ABOUT_CODE = re.compile(
    r"html|xml|entit|escape|unicode|json|python|java|regex|regular expression|string|code|markup|<\w+[ >/]", re.I
)


def find_in_characters(example: Example, ascii_only: bool) -> Iterator[Hit]:
    """`control_characters` and `broken_encoding`, at most one of each per field."""
    for name in TEXTS:
        text: str = getattr(example, name)
        if not text:
            continue
        if found := _ASCII_CONTROL.search(text) or (None if ascii_only else _hidden(text)):
            place = found.start()
            yield Hit("control_characters", name, f"holds U+{ord(text[place]):04X} at character {place}")
        if broken := (None if ascii_only else _badly_decoded(text)) or _left_escaped(text, example):
            yield Hit("broken_encoding", name, broken)


def _hidden(text: str) -> re.Match[str] | None:
    if text.isascii():
        return None
    found = _HIDDEN.search(text) or _ELSEWHERE.search(text)
    if found and found.group() >= "\U000e0000" and _FLAG.search(text):
        return _HIDDEN.search(_FLAG.sub(lambda flag: " " * len(flag.group()), text))
    return found


def _badly_decoded(text: str) -> str | None:
    if text.isascii():
        return None
    if (place := text.find("\ufffd")) >= 0:
        return f"holds U+FFFD, what is left of a character, at character {place}"
    if found := _C1.search(text):
        return f"holds U+{ord(found.group()):04X}, a byte read as a character, at character {found.start()}"
    # ftfy finds the pattern; it is confirmed if undoing the wrong decoding changes the text.
    if is_bad(text) and ftfy.fix_encoding(text) != text:
        return "was decoded as another encoding than it was written in"
    return None


def _left_escaped(text: str, example: Example) -> str | None:
    if "&" not in text and "\\" not in text:
        return None
    found = _ESCAPE.search(text) or _ENTITY.search(text)
    if not found or _ABOUT_CODE.search(f"{example.instruction}\n{example.input}"):
        return None
    return f"holds {found.group()!r}, a character left escaped, at character {found.start()}"

"""Shows foreign text safely: characters that could control a terminal or hide in a report become visible."""

import re

# Control characters, line and paragraph separators, marks that change the writing direction, invisible tags, and
# halves of surrogate pairs. The joiners of Persian, Khmer and emoji (U+200B to U+200D) stay: text needs them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    r"""The text with each control character as its escape, on one line.

    Use it for every text from elsewhere that goes to a terminal, a log, an error or a report: from servers, file names,
    metadata of models, other branches.

    >>> printable("red: \x1b[31m"), printable("two\nlines"), printable("naïve 日本 👩‍🚀")
    ('red: \\x1b[31m', 'two\\nlines', 'naïve 日本 👩‍🚀')
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def printable_lines(text: object) -> str:
    r"""Like `printable`, for a text of several lines: its line breaks and tabs stay.

    >>> printable_lines("one\n\ttwo\r\x07")
    'one\n\ttwo\\r\\x07'
    """
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in str(text).split("\n"))

"""Foreign text that is shown: what could steer a terminal or hide in a report becomes visible."""

import re

# Control characters, line and paragraph separators, marks that turn the direction of writing, invisible tags, and
# halves of surrogate pairs. The joiners of Persian, Khmer and emoji (U+200B to U+200D) stay: text needs them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    r"""The text with each control character as its escape, on one line.

    For every text that we did not write and that goes to a terminal, a log, an error or a report: from servers, from
    file names, from metadata of models, from other branches.

    >>> printable("red: \x1b[31m"), printable("two\nlines"), printable("naïve 日本 👩‍🚀")
    ('red: \\x1b[31m', 'two\\nlines', 'naïve 日本 👩‍🚀')
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def printable_lines(text: object) -> str:
    r"""The same for a text of several lines: its line breaks stay, and its tabs.

    >>> printable_lines("one\n\ttwo\r\x07")
    'one\n\ttwo\\r\\x07'
    """
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in str(text).split("\n"))

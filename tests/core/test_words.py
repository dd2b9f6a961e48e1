import pytest

from instruct.core.words import count_words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("  What's   up, Doc? ", 3),
        ("a - b", 3),  # what is between blanks
        ("Cafe\u0301 हिन्दी", 2),
        ("东京", 1),
        ("法国的首都是哪个城市?", 5),
        ("用 Python 写", 3),
        ("ภาษาไทย", 4),
        ("\u0e01\u0e34", 1),  # a letter and its mark
    ],
)
def test_words_are_counted_with_and_without_blanks(text, count):
    assert count_words(text) == count

"""When an answer ends, token by token: against a search of its whole text."""

from dataclasses import replace

import pytest
from generation.conftest import GENERATE
from hypothesis import example, given
from hypothesis import strategies as st

from instruct.generation.rows import Row
from instruct.generation.sampling import make_generator
from instruct.text.tokenizer import gpt2_tokenizer

TOKENIZER = gpt2_tokenizer()
TEXTS = st.text("ab cé語🙂#.\n", min_size=1, max_size=20)


def said(tokens, stop_strings=(), **params):
    """The row that a model's tokens have ended, or all of them; later ones are never asked for."""
    row = Row(
        id="0",
        prompt_tokens=1,
        truncated_tokens=0,
        own=[1],
        generator=make_generator(1, "0"),
        params=replace(GENERATE, max_new_tokens=1000, **params),
        stop_strings=stop_strings,
    )
    for token in tokens:
        row.take(token, TOKENIZER)
        if row.stop_reason:
            break
    return row


@given(TEXTS, st.lists(TEXTS.map(lambda text: text[:6]), min_size=1, max_size=3))
@example("it is about that", ["bou"])  # inside of a token
@example("一語語語語", ["語語語"])  # of more tokens than characters
@example("it is about that", ["ut", "bo"])  # both end with one token, the second begins first
def test_an_answer_ends_with_the_token_that_completes_a_stop_string(text, stops):
    tokens = TOKENIZER.encode(text)
    shown = [TOKENIZER.decode(tokens[:end]) for end in range(1, len(tokens) + 1)]
    expected = next((end for end, one in enumerate(shown, 1) if any(stop in one for stop in stops)), None)
    row = said(tokens, stops)
    assert (row.stop_reason, len(row.answer)) == (
        (None, len(tokens)) if expected is None else ("stop_string", expected)
    )
    if expected is not None:
        found = row.finished(TOKENIZER)
        assert found.text == text[: min(text.index(stop) for stop in stops if stop in shown[expected - 1])].strip()


@pytest.mark.parametrize(("size", "times"), [(1, 2), (1, 5), (3, 2), (7, 3), (32, 2)])
def test_an_answer_that_is_one_block_alone_ends_at_the_last_allowed_repeat(size, times):
    block = list(range(100, 100 + size))
    row = said(block * (times + 1), max_repeats=times)
    assert (row.stop_reason, len(row.answer)) == ("repetition", size * times)
    assert said((block * times)[:-1], max_repeats=times).stop_reason is None

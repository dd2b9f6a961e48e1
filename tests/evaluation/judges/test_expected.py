"""Expected scores against sums worked out by hand."""

from math import exp, log

import pytest

from instruct.evaluation.judges.expected import expected_score
from instruct.evaluation.judges.parse import Scale
from instruct.servers.base import Reply, Token

FIVE, HUNDRED = Scale(1, 5), Scale()


def token(text, *top):
    alternatives = tuple((one, log(probability)) for one, probability in top)
    return Token(text=text, logprob=dict(alternatives).get(text, log(0.5)), top=alternatives)


def expected(tokens, score, scale, **options):
    """What is expected of a reply that is these tokens."""
    text = "".join(one.text for one in tokens)
    return expected_score(Reply(text=text, logprobs=tuple(tokens)), score, scale, **options)


def reply(score_token):
    return [token('{"'), token("score"), token('":'), token(" "), score_token, token("}")]


def test_the_score_is_the_mean_of_its_distribution():
    found, problem = expected(reply(token("4", ("4", 0.5), ("5", 0.25), ("1", 0.25))), 4, FIVE)
    assert found == pytest.approx(0.5 * 4 + 0.25 * 5 + 0.25 * 1)
    assert problem == ""


def test_what_is_no_score_on_the_scale_is_left_out_and_the_rest_normalised():
    top = ("4", 0.4), ("5", 0.2), ("9", 0.2), ("good", 0.1), ("0", 0.05), ("05", 0.05)
    found, _ = expected(reply(token("4", *top)), 4, FIVE)
    assert found == pytest.approx((0.4 * 4 + 0.2 * 5) / 0.6)


def test_a_number_with_and_without_a_space_before_it_is_the_same_number():
    found, _ = expected([token("Score:"), token(" 4", (" 4", 0.3), ("4", 0.3), (" 2", 0.2))], 4, FIVE)
    assert found == pytest.approx((0.6 * 4 + 0.2 * 2) / 0.8)


def test_whole_numbers_from_0_to_100_work_where_they_are_one_token():
    found, _ = expected(reply(token("85", ("85", 0.6), ("90", 0.2), ("100", 0.1), ("0", 0.1))), 85, HUNDRED)
    assert found == pytest.approx(0.6 * 85 + 0.2 * 90 + 0.1 * 100)


@pytest.mark.parametrize("digits", ["85", "100"])
def test_a_number_written_digit_by_digit_is_refused(digits):
    pieces = [token('{"score": '), *(token(digit, (digit, 0.9)) for digit in digits), token("}")]
    found, problem = expected(pieces, int(digits), HUNDRED)
    assert found is None
    assert "not one token" in problem


def test_one_digit_on_a_scale_to_100_may_be_the_first_of_two():
    # 5 may stand for 5 and for 50 to 59: a distribution over first digits is none over scores.
    found, problem = expected(reply(token("5", ("5", 0.5), ("9", 0.5))), 5, HUNDRED)
    assert found is None
    assert "digit by digit" in problem


def test_probability_that_is_not_on_scores_is_no_score():
    found, problem = expected(reply(token("4", ("4", 0.05), ('"', 0.9))), 4, FIVE)
    assert found is None
    assert "only 5%" in problem


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Score: ", ()),
        ("Score: ", ("/", "5")),
        ("Score: ", (" out", " of ", "5")),
        ('{"score": ', (', "max": ', "5", "}")),
        ('{"score": ', (', "reason": "all ', "5", ' facts"}')),
        ('{"reason": "all 5 facts", "score": ', ("}",)),
        ("<think>Score: 5</think>Score: ", ()),
        ('```json\n{"score": ', ("}\n```",)),
    ],
)
def test_the_token_that_was_read_as_the_score_counts_and_no_other_mention(before, after):
    rest = [token(text, (text, 0.999)) for text in after]
    pieces = [token(before), token("5", ("5", 0.5), ("1", 0.5)), *rest]
    assert expected(pieces, 5, FIVE)[0] == pytest.approx(3.0)


def test_the_last_line_of_a_reasoned_reply_holds_the_score():
    pieces = [token("All "), token("5", ("5", 1.0)), token(" facts.\nScore: "), token("5", ("5", 0.5), ("1", 0.5))]
    assert expected(pieces, 5, FIVE)[0] is None
    assert expected(pieces, 5, FIVE, reasoned=True)[0] == pytest.approx(3.0)


def test_tokens_may_hold_more_than_the_reply():
    pieces = [token("```\n5 facts? "), token("5", ("5", 0.5), ("1", 0.5)), token("<|im_end|>")]
    assert expected_score(Reply(text="5", logprobs=tuple(pieces)), 5, FIVE)[0] == pytest.approx(3.0)


def test_a_mention_behind_the_reply_is_not_the_score():
    pieces = [token("```\nScore: "), token("5", ("5", 0.5), ("1", 0.5)), token("\n```\nAll "), token("5", ("5", 1.0))]
    assert expected_score(Reply(text="Score: 5", logprobs=tuple(pieces)), 5, FIVE)[0] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ('{"reason": "\U0001f44d", "score": 5}', ('{"reason": "', "\\xf0\\x9f\\x91", "\\x8d", '", "score": '), ("}",)),
        ("Score: 5 - \u2026 good", ("Score: ",), (" - ", "bytes:\\xe2\\x80", "\\xa5", " good")),
        ("Score: 5 - \u0165", ("Score: ",), (" - ", "\\xc5", "\\xf5")),
        ("Score: 5 \u2013 good", ("Score: ",), (" ", "<0xE2>", "<0x80>", "<0x05>", " good")),
        ("Score: 5 \u2013 good", ("Score: ",), (" ", "\ufffd", "\ufffd", " good")),
        ("I give it 5 out of 5.", ("I", "give", "it"), ("out", "of", "5", ".")),
    ],
)  # fmt: skip
def test_the_token_of_the_score_is_found_where_tokens_do_not_spell_the_reply(text, before, after):
    pieces = [token(one) for one in before] + [token("5", ("5", 0.5), ("1", 0.5))] + [token(one) for one in after]
    assert expected_score(Reply(text=text, logprobs=tuple(pieces)), 5, FIVE, reasoned=True)[0] == pytest.approx(3.0)


def test_a_mention_that_the_tokens_lack_leaves_no_score():
    pieces = [token("Score:"), token("5", ("5", 0.5), ("1", 0.5)), token("5")]  # blanks lost: it could be 55
    assert expected_score(Reply(text="Score: 5/5", logprobs=tuple(pieces)), 5, FIVE)[0] is None


def test_where_it_is_not_clear_which_token_is_the_score_there_is_none():
    pieces = [token("5", ("5", 0.5), ("1", 0.5)), token(" or "), token("5", ("5", 1.0))]
    found, problem = expected(pieces, 5, FIVE)
    assert found is None
    assert "scoring: text" in problem


def test_a_token_that_holds_more_than_the_number_is_refused():
    assert expected([token("4/5", ("4/5", 1.0))], 4, FIVE)[0] is None
    assert expected([], 4, FIVE)[0] is None


def test_a_sure_judge_is_expected_to_say_what_it_says():
    sure = Token(text="2", logprob=0.0, top=(("2", 0.0), ("3", -40.0)))
    assert expected([sure], 2, FIVE)[0] == pytest.approx(2 + exp(-40))

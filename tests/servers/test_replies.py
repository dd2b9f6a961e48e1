"""What is taken from a reply before it becomes data, and what a key is of."""

import pytest
from servers.settings import question

from instruct.servers.base import Reply
from instruct.servers.replies import key_of, reply_of, without_thoughts


@pytest.mark.parametrize(
    "text",
    [
        "<think>Hm.</think>Paris.",
        "\n<think>\nHm.\n\n</think>\n\n Paris.\n",
        "<THINKING>Hm.</Thinking> Paris.",
        "Hm, maybe.\n</think>\nParis.",
        "Hm, maybe.</think> \r\n\nParis.",
        "</think>\nParis.",
        "Hm.\n</think>\n<think></think>Paris.",
        "<think></think><think>Hm.</think>Paris.",
    ],
)
def test_closed_thoughts_in_front_are_taken_away(text):
    assert without_thoughts(Reply(text=text)) == Reply(text="Paris.")


@pytest.mark.parametrize("text", [" Paris. ", "I think so.", "<b>1</b> < 2", ""])
def test_a_text_without_thoughts_is_left_as_it_is(text):
    assert without_thoughts(Reply(text=text)) == Reply(text=text)


@pytest.mark.parametrize(
    "text",
    [
        "<think>Hm.",
        "<think>Hm.</think>\n",
        "Paris. <think>Hm.",
        "Paris.<think>Hm.</think> Lima.",
        "<think><think>a</think>",
        "Reasoning models close their thoughts with </think> and then answer.",
        "They write </think>.\nThen they answer.",
        '{"output": "The tag </think> ends the thoughts."}',
        "<think>Hm.</think>Their thoughts end with </think>\nand then they answer.",
    ],
)
def test_a_text_that_may_not_be_clean_is_a_problem_and_never_cut(text):
    reply = without_thoughts(Reply(text=text))
    assert reply.problem and reply.text == text and reply.answered


def test_a_problem_of_a_reply_stays_what_it_was():
    assert without_thoughts(Reply(text="<think>Hm", problem="cut off", stop="length")).problem == "cut off"


@pytest.mark.parametrize(
    "text, line",
    [("\nA\nB", "A"), ("A\n", "A"), ("<think>\nHm\n</think>\nA\nB", "A"), ("A", ""), ("<think>\nHm\n", "")],
)
def test_a_reply_that_is_cut_off_is_whole_where_only_its_first_line_is_wanted(text, line):
    reply = reply_of(question(first_line=True), text, "length", 5, thought=False)
    assert (reply.text, reply.problem) == (line, "") if line else reply.problem
    assert reply_of(question(), text, "length", 5, thought=False).problem


def test_a_wish_for_the_first_line_alone_is_part_of_the_key():
    assert key_of("s", "w", {}, question()) != key_of("s", "w", {}, question(first_line=True))
    assert (
        key_of("s", "w", {}, question()) == "53dd68bf08112139e7a2ea7ee930f2b658afebd0e3101060633dd6b83aaf6910"
    )  # as before, so that caches stay of use

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.core.repetition import LONGEST_PERIOD, find_repetition

WORDS = [f"w{i}" for i in range(500)]


@pytest.mark.parametrize("period", [2, 3, 7, LONGEST_PERIOD])
def test_four_times_in_a_row_is_a_loop_and_three_times_is_not(period):
    unit, before, after = " ".join(WORDS[:period]), "It begins so:", "and ends."
    assert find_repetition(f"{before} {' '.join([unit] * 4)} {after}") == f"{period} words 4 times in a row"
    assert find_repetition(f"{before} {' '.join([unit] * 3)} {after}") is None


def test_one_word_may_stand_five_times():
    assert find_repetition("He said ha ha ha ha ha and left.") is None
    assert find_repetition("He said ha, ha, ha, Ha, ha, ha! and left.") == "1 word 6 times in a row"


def test_a_sentence_of_four_words_three_times_is_a_loop_wherever_it_stands():
    again = "The owl is a bird."
    assert find_repetition(f"{again} It hunts. {again} It sleeps.\n{again}") == "one sentence 3 times"
    assert find_repetition(f"{again} It hunts. {again} It sleeps.") is None
    assert find_repetition("An owl hunts. It hunts. An owl hunts. Now. An owl hunts.") is None


@pytest.mark.parametrize(
    "unit", ["我不知道。", "わかりません。", "很好", "ไม่รู้", "哈", "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"]
)
def test_a_loop_in_a_script_without_blanks_is_found_as_in_others(unit):
    for before, after in (("", ""), ("答案是：", "谢谢你们。")):
        assert find_repetition(before + unit * 12 + after)
        assert find_repetition(before + unit * 2 + after) is None


def test_a_sentence_in_a_script_without_blanks_ends_at_its_full_stop():
    again = "猫头鹰是一种鸟。"
    assert find_repetition(f"{again}它会打猎。{again}它睡觉！{again}") == "one sentence 3 times"
    assert find_repetition(f"{again}它会打猎。{again}它睡觉！") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one",
        "A rose is a rose is a rose.",
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12",
        "- red\n- green\n- blue\n- yellow\n- white",
        "- - - - - - - - -",
        "哈哈哈哈哈哈",
        "我不知道。我不知道。我不知道。",
        "| 是 | 是 | 是 | 是 | 是 | 是 | 是 |",
        "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
    ],
)
def test_ordinary_texts_do_not_loop(text):
    assert find_repetition(text) is None


def loops_by_trying_everything(words):
    """Every start, period and number of times; the definition, without any short cut."""
    for period in range(1, LONGEST_PERIOD + 1):
        times = 6 if period == 1 else 4
        for start in range(len(words) - period * times + 1):
            unit = words[start : start + period]
            if words[start : start + period * times] == unit * times:
                return True
    return False


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_a_loop_is_found_exactly_where_trying_every_place_finds_one(words):
    assert bool(find_repetition(" ".join(words))) == loops_by_trying_everything(words)


def test_random_text_does_not_loop():
    rng = random.Random(1)
    assert not [i for i in range(300) if find_repetition(" ".join(rng.choices(WORDS, k=80)))]

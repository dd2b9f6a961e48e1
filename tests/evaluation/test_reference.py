import doctest
import importlib
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF

from instruct.evaluation.reference import compare, tokens
from instruct.results.schema import REFERENCE_METRICS

SEED_DATA = Path(__file__).parents[2] / "../shared/data/seed/instruction-data.json"

# Any text that UTF-8 can hold, and answers as people write them.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
answers = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "3", "mats", ",", "1,000.5", "-5", "É", "東京", "हिन्दी", "?", "Yes"]),
    max_size=12,
).map(" ".join)


@pytest.mark.parametrize("module", ["instruct.evaluation.reference", "instruct.evaluation.judges.parse"])
def test_the_examples_in_docstrings_hold(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's hat.", ["the", "cat", "s", "hat"]),
        ("1,725.50 km", ["1,725.50", "km"]),
        ("It is 3.", ["it", "is", "3"]),
        ("-5 °C or −5", ["-5", "c", "or", "-5"]),
        ("(-5), 10-5, 2020-05-01", ["-5", "10", "5", "2020", "05", "01"]),
        ("CO2 and 3rd", ["co2", "and", "3", "rd"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("كَتَبَ الطَّالِبُ", ["كَتَبَ", "الطَّالِبُ"]),
        ("Привет, МИР", ["привет", "мир"]),
        ("東京は晴れ", ["東", "京", "は", "晴", "れ"]),
        ("第3章", ["第", "3", "章"]),
        ("น้ำ ดี", ["น้", "ำ", "ดี"]),
        ("ខ្មែរ", ["ខ្", "មែ", "រ"]),
        ("ຄົນລາວ", ["ຄົ", "ນ", "ລ", "າ", "ວ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("ปี ๒๕๖๗", ["ปี", "๒๕๖๗"]),
        ("x", ["x"]),
        ("?", ["?"]),
        ("❤\ufe0f ☀\ufe0f", ["❤\ufe0f", "☀\ufe0f"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_tokens_are_the_words_and_numbers_that_a_reader_sees(text, expected):
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("response", "reference", "common", "ours", "theirs"),
    [
        # counted by hand: tokens in common (with repetition), in the response, in the reference
        ("The cat sat on the mat.", "the cat is on a mat", 4, 6, 6),
        ("the the the", "the cat", 1, 3, 2),
        ("a b c", "c b a", 3, 3, 3),
        ("yes", "no", 0, 1, 1),
        ("It costs $1,000.50!", "The cost is 1,000.50 dollars", 1, 3, 5),
        ("1000", "1,000", 0, 1, 1),
        ("5", "-5", 0, 1, 1),
        ("A", "The answer is A", 1, 1, 4),
        ("ПРИВЕТ мир", "привет, друг", 1, 2, 2),
        ("東京", "京都", 1, 2, 2),
        ("कि", "की", 0, 1, 1),
    ],
)
def test_token_f1_equals_a_count_by_hand(response, reference, common, ours, theirs):
    precision, recall = common / ours, common / theirs
    expected = 100 * 2 * precision * recall / (precision + recall) if common else 0.0
    assert compare(response, reference).token_f1 == pytest.approx(expected)


def longest_common_subsequence(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


words = st.lists(st.sampled_from(["ab", "b", "ca", "7", "1,5", "é"]), max_size=12)


@given(words, words)
@settings(max_examples=200)
def test_rouge_l_equals_a_dynamic_programme(ours, theirs):
    common = longest_common_subsequence(ours, theirs)
    expected = 100 * 2 * common / (len(ours) + len(theirs)) if common else 0.0
    assert compare(" ".join(ours), " ".join(theirs)).rouge_l == pytest.approx(expected)


def test_rouge_l_asks_for_the_order_and_token_f1_does_not():
    measured = compare("c b a", "a b c")
    assert measured.token_f1 == 100
    assert measured.rouge_l == pytest.approx(100 / 3)


@given(texts | answers, texts | answers)
@example("", "a")
@example("a", "b")
@settings(max_examples=200)
def test_chrf_is_the_sentence_score_of_sacrebleu(response, reference):
    assert compare(response, reference).chrf == CHRF().sentence_score(response, [reference]).score


def test_chrf_of_a_worked_example():
    # "ab" against "ac", character n-grams of order 1 and 2: precision and recall 1/2 and 0; F2 of their means.
    assert compare("ab", "ac").chrf == pytest.approx(25.0)


@given(texts | answers, texts | answers)
@settings(max_examples=300)
def test_every_measure_lies_between_0_and_100(response, reference):
    measured = compare(response, reference)
    for measure in REFERENCE_METRICS:
        assert 0 <= round(getattr(measured, measure), 9) <= 100, measure


@given((texts | answers).filter(str.strip))
@example("7")
@example("?")
@example("+")
@example("😀")
@example("न")
@example("\u0301")
@settings(max_examples=300)
def test_identical_text_is_100_by_every_measure(text):
    measured = compare(text, text)
    assert [getattr(measured, measure) for measure in REFERENCE_METRICS if measure != "chrf"] == [100] * 4
    # sacrebleu takes white space in Python's sense away first; nothing else may be left of a text.
    assert measured.chrf == pytest.approx(100)


@pytest.mark.parametrize("reference", ["Yes", "7", "東京", "?", "A longer answer, with 1,000 things."])
@pytest.mark.parametrize("response", ["", " ", "\n\n"])
def test_an_empty_response_is_0_by_every_measure(response, reference):
    assert [getattr(compare(response, reference), measure) for measure in REFERENCE_METRICS] == [0] * 5


@pytest.mark.parametrize(
    ("response", "reference", "exact"),
    [
        ("Paris", "Paris", True),
        ("  Paris\n", "Paris", True),
        ("New  York", "New York", True),
        ("paris", "Paris", False),
        ("Paris.", "Paris", False),
        ("", "Paris", False),
        ("NewYork", "New York", False),
        ("5", "-5", False),
    ],
)
def test_exact_match_is_to_the_letter_but_for_white_space(response, reference, exact):
    assert compare(response, reference).exact_match == (100 if exact else 0)


EDITS = {
    "Chinese": ("他每天去学校学习数学", "他每天去学校学习英文"),
    "Thai": ("เขาไปโรงเรียนทุกวันเพื่อเรียนคณิตศาสตร์", "เขาไปโรงเรียนทุกวันเพื่อเรียนภาษาอังกฤษ"),
    "Lao": ("ລາວໄປໂຮງຮຽນທຸກມື້ເພື່ອຮຽນຄະນິດສາດ", "ລາວໄປໂຮງຮຽນທຸກມື້ເພື່ອຮຽນພາສາອັງກິດ"),
    "Khmer": ("គាត់ទៅសាលារៀនរាល់ថ្ងៃដើម្បីរៀនគណិតវិទ្យា", "គាត់ទៅសាលារៀនរាល់ថ្ងៃដើម្បីរៀនភាសាអង់គ្លេស"),
    "Burmese": ("သူသည်နေ့တိုင်းကျောင်းသို့သွားသည်", "သူမသည်နေ့တိုင်းကျောင်းသို့သွားသည်"),
}


@pytest.mark.parametrize("language", EDITS)
def test_one_edit_leaves_a_text_similar_in_every_script_without_blanks(language):
    assert compare(*EDITS[language]).similarity > 50


def test_similarity_is_the_mean_of_three_measures_unless_the_match_is_exact():
    measured = compare("Paris.", "paris")
    assert (measured.token_f1, measured.rouge_l, measured.exact_match) == (100, 100, 0)
    assert measured.chrf < 100
    assert measured.similarity == pytest.approx((200 + measured.chrf) / 3)


@given(answers, answers)
@settings(max_examples=100)
def test_token_measures_are_symmetric_and_blind_to_case(response, reference):
    one, other = compare(response, reference), compare(reference.upper(), response.upper())
    assert one.token_f1 == pytest.approx(other.token_f1)
    assert one.rouge_l == pytest.approx(other.rouge_l)
    assert one.rouge_l <= one.token_f1 + 1e-9


@given(answers)
@settings(max_examples=50)
def test_composed_and_decomposed_letters_are_the_same_tokens(text):
    assert tokens(unicodedata.normalize("NFD", text)) == tokens(unicodedata.normalize("NFC", text))


def test_every_reference_of_the_book_is_wholly_like_itself():
    if not SEED_DATA.exists():
        pytest.skip("the seed data is not beside this checkout")
    for record in json.loads(SEED_DATA.read_text(encoding="utf-8"))[:300]:
        assert compare(record["output"], record["output"]).similarity == 100

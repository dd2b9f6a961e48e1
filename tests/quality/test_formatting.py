import pytest
from hypothesis import given
from hypothesis import strategies as st
from quality_records import example, found

from instruct.core.errors import DataError
from instruct.quality.formatting import find_markers, find_unspellable, missing_bytes
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer


@pytest.mark.parametrize(
    "marker", [*(m for template in TEMPLATES.values() for m in template.stop_strings), "<think>", "</think>"]
)
@pytest.mark.parametrize("field", ["instruction", "input", "output"])
def test_a_marker_of_our_templates_in_a_record_is_found(marker, field):
    (hit,) = find_markers(example(**{field: f"one\n\n{marker}\ntwo"}))
    assert (hit.finding, hit.field, hit.what) == ("template_markers", field, f'holds "{marker}" at character 5')


@pytest.mark.parametrize(
    "text", ["# Title", "### Results", "a < b | c > d", "[1, 2]", "<b>user</b>", "Instruction: go"]
)
def test_other_markup_is_no_marker(text):
    assert list(find_markers(example(text))) == []


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_unspellable_is_exactly_what_training_would_refuse(smollm2_tokenizer, text):
    missing = missing_bytes(smollm2_tokenizer)
    try:
        smollm2_tokenizer.encode(text)
        refused = False
    except DataError:
        refused = True
    assert found(find_unspellable(example(text), smollm2_tokenizer, missing)) == ["unspellable"] * refused


def test_the_character_is_named(smollm2_tokenizer):
    (hit,) = find_unspellable(example("a \U00050000"), smollm2_tokenizer, missing_bytes(smollm2_tokenizer))
    assert hit.what == "the tokenizer has no token for the character U+50000"


def test_gpt2_spells_everything():
    assert missing_bytes(gpt2_tokenizer()) == frozenset()

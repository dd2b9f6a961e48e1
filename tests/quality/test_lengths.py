import numpy as np
import pytest
from quality_records import example

from instruct.quality.lengths import Lengths
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer
from instruct.training.encode import count_tokens, encode_example

TEMPLATE = TEMPLATES["alpaca"]


def records(count):
    return [example("owl " * (i % 37 + 1), f"Name {i}.", "in\nput " * (i % 5), id=f"r{i}") for i in range(count)]


def measured(examples, limit, part="train", **options):
    lengths = Lengths(gpt2_tokenizer(), TEMPLATE, limit)
    for one in examples:
        lengths.add(one, part)
    return lengths.report(len(examples), **options)


@pytest.mark.parametrize("count", [1, 1023, 1024, 1500])
def test_tokens_are_those_that_training_counts(count):
    examples = records(count)
    encoded = [encode_example(one, TEMPLATE, gpt2_tokenizer()) for one in examples]
    report = measured(examples, limit=10_000)
    tokens, response_tokens = count_tokens(encoded)
    assert report["parts"] == {"train": {"counted": count, "tokens": tokens, "response_tokens": response_tokens}}
    totals = [len(one.ids) for one in encoded]
    assert (report["total"]["min"], report["total"]["max"], report["max"]) == (min(totals), max(totals), max(totals))
    assert report["total"]["mean"] == round(np.mean(totals), 2)
    assert report["total"]["p50"] in sorted(totals)[(count - 1) // 2 : count // 2 + 1]
    assert sum(band["records"] for band in report["bands"]) == count
    for band, below in zip(report["bands"], [0, *(band["up_to"] for band in report["bands"])], strict=False):
        assert band["records"] == sum(below < total <= band["up_to"] for total in totals)


def test_beyond_the_limit_a_sample_is_counted_and_its_size_told():
    report = measured(records(9000), 1000)
    assert (report["records"], 400 <= report["counted"] <= 1000) == (9000, True)
    whole = measured(records(9000), 10_000)
    assert whole["counted"] == 9000
    assert report["total"]["mean"] == pytest.approx(whole["total"]["mean"], rel=0.05)


def test_the_sample_does_not_depend_on_the_order():
    forward, backward = (measured(examples, 500) for examples in (records(3000), records(3000)[::-1]))
    assert forward == backward


def test_the_longest_record_is_never_missed():
    examples = records(5000)
    examples[4321] = example("owl " * 900, id="long")
    report = measured(examples, 10)
    assert report["counted"] <= 10
    assert report["longest"][0]["id"] == "long"
    assert (
        report["max"]
        == report["longest"][0]["tokens"]
        == len(encode_example(examples[4321], TEMPLATE, gpt2_tokenizer()).ids)
    )


def test_a_text_that_cannot_be_tokenised_does_not_stop_the_count():
    report = measured([example(" " * 200_000, id="blank"), *records(3)], 10)
    assert report["counted"] == 4
    assert report["max"] > 200_000

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface import as_ours, random_gpt2
from small_training import FLOAT32

from instruct.core.errors import DataError
from instruct.core.params import load_params
from instruct.core.records import Example
from instruct.generation.decode import generate
from instruct.generation.settings import GenerateParams
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer
from instruct.training.encode import EncodedExample, count_tokens, encode_example, fit_length

pytestmark = pytest.mark.usefixtures("one_thread")

PARAMS = Path(__file__).parents[2] / "params.yaml"
EOS = 50256
RECORD = Example(id="r1", instruction="Name the capital.", input="Peru", output="Lima is the capital of Peru.")
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\nName the capital.\n\n### Input:\nPeru\n\n### Response:\n"
)


def sized(id_: str, prompt: int, response: int) -> EncodedExample:
    """A prompt of so many tokens, a response of so many, and the end token."""
    return EncodedExample(
        id=id_, ids=(*range(100, 100 + prompt), *range(200, 200 + response), EOS), prompt_length=prompt
    )


def test_ids_are_prompt_response_and_one_end_token():
    tokenizer = gpt2_tokenizer()
    encoded = encode_example(RECORD, TEMPLATES["alpaca"], tokenizer)
    assert tokenizer.decode(encoded.ids[: encoded.prompt_length]) == ALPACA
    assert tokenizer.decode(encoded.ids[encoded.prompt_length : -1]) == "Lima is the capital of Peru."
    assert encoded.ids.count(EOS) == 1 and encoded.ids[-1] == EOS
    assert encoded.id == "r1"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("record", [RECORD, Example(id="r2", instruction="Say yes.", input="", output=" yes")])
def test_prompt_ids_are_exactly_those_of_generation(tmp_path, template, record):
    """A random model, whose every answer depends on every prompt token, answers the same from the encoded ids."""
    model = as_ours(random_gpt2(vocab_size=50257, n_positions=96), tmp_path)
    tokenizer, chosen = gpt2_tokenizer(), TEMPLATES[template]
    params = load_params("generate", GenerateParams, PARAMS)
    params = replace(params, max_new_tokens=6, temperature=0.0, num_samples=1, max_repeats=0)
    prompts = {record.id: chosen.render(record.instruction, record.input)}
    answer = generate(
        model, tokenizer, prompts, prefix=chosen.prefix, stop_strings=(), params=params, runtime=FLOAT32
    )[record.id]  # fmt: skip
    encoded = encode_example(record, chosen, tokenizer)
    ids = list(encoded.ids[: encoded.prompt_length])
    for _ in range(answer.tokens):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert answer.tokens == 6
    assert answer.prompt_tokens == encoded.prompt_length
    assert answer.text == tokenizer.decode(ids[encoded.prompt_length :]).strip()


@pytest.mark.parametrize("output", [" starts with a blank", "\nstarts a line", "s", "ponse:\n"])
def test_border_does_not_depend_on_how_the_response_begins(output):
    tokenizer, template = gpt2_tokenizer(), TEMPLATES["alpaca"]
    plain = encode_example(RECORD, template, tokenizer)
    record = Example(id="r", instruction=RECORD.instruction, input=RECORD.input, output=output)
    encoded = encode_example(record, template, tokenizer)
    assert encoded.ids[: encoded.prompt_length] == plain.ids[: plain.prompt_length]
    assert tokenizer.decode(encoded.ids[encoded.prompt_length : -1]) == output


def test_end_of_text_in_a_record_is_text():
    record = Example(id="r", instruction="Repeat.", input="<|endoftext|>", output="<|endoftext|>")
    encoded = encode_example(record, TEMPLATES["phi3"], gpt2_tokenizer())
    assert encoded.ids.count(EOS) == 1


def test_record_that_fits_is_left_as_it_is():
    examples = [sized("a", 3, 4), sized("b", 3, 1)]
    for over_long in ("raise", "truncate", "drop"):
        assert fit_length(examples, 8, over_long) == (examples, 0, 0)


def test_raise_lists_every_over_long_record():
    with pytest.raises(DataError) as error:
        fit_length([sized("a", 3, 9), sized("b", 3, 1), sized("c", 10, 10)], 8, "raise")
    assert str(error.value).splitlines() == [
        "record a: 13 tokens, more than 8",
        "record c: 21 tokens, more than 8",
        "2 records are too long; raise train.max_length if the model has room, or set train.over_long to truncate or "
        "drop",
    ]


def test_truncate_keeps_prompt_and_end_token():
    (cut, whole), truncated, dropped = fit_length([sized("a", 3, 9), sized("b", 3, 1)], 8, "truncate")
    assert cut.ids == (100, 101, 102, 200, 201, 202, 203, EOS)
    assert cut.prompt_length == 3
    assert whole == sized("b", 3, 1)
    assert (truncated, dropped) == (1, 0)


def test_truncate_leaves_at_least_one_response_token_or_refuses():
    (kept,), truncated, _ = fit_length([sized("a", 6, 9)], 8, "truncate")
    assert kept.ids[6:] == (200, EOS) and truncated == 1
    with pytest.raises(DataError, match=r"record a: its prompt of 7 tokens leaves no response\n1 records are too long"):
        fit_length([sized("a", 7, 9)], 8, "truncate")


def test_drop_counts():
    kept, truncated, dropped = fit_length([sized("a", 3, 9), sized("b", 3, 1), sized("c", 30, 1)], 8, "drop")
    assert kept == [sized("b", 3, 1)]
    assert (truncated, dropped) == (0, 2)


def test_nothing_left_is_refused():
    with pytest.raises(DataError, match=r"no record fits into 8 tokens; raise train\.max_length"):
        fit_length([sized("a", 3, 9)], 8, "drop")


def test_text_that_cannot_be_spelled_names_the_record(smollm2_tokenizer):
    record = Example(id="r9", instruction="Say it.", input="", output="\U00040000")
    with pytest.raises(DataError, match=r"record r9: .*U\+40000"):
        encode_example(record, TEMPLATES["alpaca"], smollm2_tokenizer)


def test_tokens_are_counted_with_the_end_token():
    assert count_tokens([sized("a", 3, 4), sized("b", 2, 1)]) == (3 + 4 + 1 + 2 + 1 + 1, 4 + 1 + 1 + 1)


def test_longest_fitting_record_runs_through_the_model(tmp_path):
    # A model of 32 places takes records of 33 tokens, since the last one is only a target.
    model = as_ours(random_gpt2(), tmp_path)
    (kept,), _, _ = fit_length([sized("a", 3, 29)], model.block_size + 1, "raise")
    logits = model(torch.tensor([kept.ids[:-1]]) % 97)
    assert logits.shape == (1, 32, 97)

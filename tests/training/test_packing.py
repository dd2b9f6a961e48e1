from dataclasses import replace

import pytest
import torch
from grids import thinned
from small_training import (
    BFLOAT16,
    END,
    FAMILIES,
    example,
    loss_and_gradients,
    make_batch,
    random_examples,
    small_model,
)
from small_training import lora_params as lora
from torch.utils._python_dispatch import TorchDispatchMode

from instruct.core.records import Example
from instruct.model.checkpoint import random_model
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig
from instruct.model.lora import add_lora
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer
from instruct.training.encode import encode_example
from instruct.training.loss import loss_sum
from instruct.training.packing import BlockAttend, shared_prefix, tree_mask

pytestmark = pytest.mark.usefixtures("one_thread")
families = pytest.mark.parametrize("family", FAMILIES)

BATCHES = {
    "no shared prefix": [example([1, 2], [3]), example([4], [5, 6, 7, 8]), example([9, 2, 1], [1])],
    "prefix of one token": random_examples(5, preamble=1),
    "prefix of seven tokens": random_examples(6, preamble=7),
    "whole prompt the same": [example([1, 2, 3], r) for r in ([4], [5, 6], [7, 8, 9, 10], [4, 11])],
    "one record is the beginning of another": [example([1, 2], [3]), example([1, 2], [3, 4, 5]), example([1], [2])],
    "equal records": [example([1, 2, 3], [4, 5], f"copy {i}") for i in range(3)],
    "one record": [example([1, 2, 3], [4, 5])],
    "records of one token in": [example([1], []), example([2], []), example([1], [2, 3])],
    "records of one token in, all the same": [example([1], [], "a"), example([1], [], "b")],
    "one token and long ones": [example([1], []), example([1, *range(2, 20)], list(range(20, 50)))],
    "end tokens inside": [example([1, END, 2], [3, END, 4]), example([1, END], [END]), example([END], [1])],
    "no prompt": [example([], [1, 2, 3]), example([], [1, 4]), example([], [5, 2])],
}


def assert_packed_equals_padded(model, examples, weight, *, rtol=1e-4, atol=2e-6, **options):
    packed_loss, packed = loss_and_gradients(model, make_batch(examples, "packed", weight), **options)
    padded_loss, padded = loss_and_gradients(model, make_batch(examples, "padded", weight), **options)
    assert packed_loss == pytest.approx(padded_loss, rel=rtol)
    assert packed.keys() == padded.keys()
    compared = 0
    for name, gradient in padded.items():
        assert (gradient is None) == (packed[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(packed[name], gradient, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
            compared += bool(gradient.abs().max() > 0)
    return compared


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize(("examples", "family"), thinned(BATCHES, list(FAMILIES), together=1))
def test_attention_over_a_block_mask_equals_that_over_gathered_rows(family, examples):
    """The forward pass; the backward pass needs CUDA."""
    model = small_model(family).requires_grad_(False)
    flat = make_batch(examples, "packed", 0.3, flat=True)
    by_blocks = loss_sum(model, replace(flat, attend=BlockAttend(flat.attend.ends)))
    by_rows = loss_sum(model, make_batch(examples, "packed", 0.3))
    assert float(by_blocks) == pytest.approx(float(by_rows), rel=1e-5)


@pytest.mark.parametrize(("examples", "weight", "family"), thinned(BATCHES, [0.0, 0.3], list(FAMILIES)))
def test_loss_and_gradients_over_a_dense_mask_equal_those_over_gathered_rows(family, examples, weight):
    model = small_model(family)
    dense_loss, dense = loss_and_gradients(model, make_batch(examples, "packed", weight, flat=True))
    rows_loss, rows = loss_and_gradients(model, make_batch(examples, "packed", weight))
    assert dense_loss == pytest.approx(rows_loss, rel=1e-4)
    for name, gradient in rows.items():
        torch.testing.assert_close(dense[name], gradient, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("examples", BATCHES.values(), ids=BATCHES)
def test_dense_mask_shows_each_token_the_prefix_and_what_its_record_has_before_it(examples):
    inputs = [item.ids[:-1] for item in examples]
    prefix = shared_prefix(inputs)
    owners = [None] * prefix + [i for i, ids in enumerate(inputs) for _ in ids[prefix:]]
    mask = tree_mask(make_batch(examples, "packed", flat=True).attend.ends, torch.float32)[0, 0]
    for query, owner in enumerate(owners):
        seen = [key for key in range(query + 1) if owners[key] in (None, owner)]
        assert mask[query].isfinite().nonzero().flatten().tolist() == seen
    assert mask.nan_to_num(neginf=0.0).eq(0).all()


class Count(TorchDispatchMode):
    """Counts the operations that are dispatched."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


@families
def test_dense_mask_needs_fewer_operations_than_gathered_rows(family):
    """On a GPU each is a launch."""
    counts = {}
    for flat in (True, False):
        model, batch = small_model(family), make_batch(random_examples(6, preamble=5), "packed", flat=flat)
        with Count() as count:
            loss_and_gradients(model, batch)
        counts[flat] = count.operations
    assert counts[True] < 0.8 * counts[False]


@pytest.mark.parametrize(("name", "weight", "family"), thinned(list(BATCHES), [0.0, 0.3, 1.0], list(FAMILIES)))
def test_packed_loss_and_every_gradient_equal_padded(family, name, weight):
    model = small_model(family)
    compared = assert_packed_equals_padded(model, BATCHES[name], weight)
    # Queries and keys of a record whose one token sees only itself get no gradient; everything else must.
    assert compared >= len(list(model.parameters())) - 4


@families
def test_batches_reach_the_prefixes_that_their_names_promise(family):
    lengths = {name: shared_prefix([item.ids[:-1] for item in items]) for name, items in BATCHES.items()}
    assert lengths["no shared prefix"] == lengths["no prompt"] == lengths["records of one token in"] == 0
    assert (lengths["prefix of one token"], lengths["prefix of seven tokens"]) == (1, 7)
    assert lengths["whole prompt the same"] == 3
    assert lengths["equal records"] == lengths["one record"] == 5
    assert lengths["one record is the beginning of another"] == 2


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_positions=128, n_embd=16, n_layer=2, n_head=2),
        LlamaConfig(
            vocab_size=50257, max_position_embeddings=128, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2,
        ),
    ],
    ids=["gpt2", "llama"],
)  # fmt: skip
def test_packed_equals_padded_with_each_template(template, config):
    texts = [
        ("Name a colour.", "", "Blue."),
        ("Name a fruit that is red.", "", "An apple, for instance."),
        ("Turn this into the past tense.", "I go to school.", "I went to school."),
    ]
    tokenizer = gpt2_tokenizer()
    examples = [
        encode_example(
            Example(id=str(i), instruction=instruction, input=input_, output=output), TEMPLATES[template], tokenizer
        )
        for i, (instruction, input_, output) in enumerate(texts)
    ]
    prefix = shared_prefix([item.ids[:-1] for item in examples])
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    begins = {
        "alpaca": TEMPLATES["alpaca"].preamble + "\n\n### Instruction:\n",
        "phi3": "<|user|>\n",
        "chatml": f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n",
    }
    assert prefix == len(tokenizer.encode(begins[template]))
    model = random_model(config, seed=3)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 5 if weight.ndim > 1 else 1
    for weight in (0.0, 0.3):
        assert_packed_equals_padded(model, examples, weight, atol=1e-5)


@families
def test_packed_equals_padded_with_lora(family):
    model = small_model(family)
    add_lora(model, lora(r=3), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_B"):
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(4))
    compared = assert_packed_equals_padded(model, random_examples(6, preamble=5), 0.3)
    assert compared == sum(weight.requires_grad for weight in model.parameters()) > 0


@families
def test_packed_equals_padded_when_activations_are_computed_again(family):
    examples = random_examples(5, preamble=4)
    model = small_model(family).train()
    plain = loss_and_gradients(model, make_batch(examples, "packed", 0.3))
    model.recompute = True
    assert_packed_equals_padded(model, examples, 0.3)
    loss, gradients = loss_and_gradients(model, make_batch(examples, "packed", 0.3))
    assert loss == plain[0]
    for name, gradient in gradients.items():
        assert torch.equal(gradient, plain[1][name]), name


@families
def test_packed_equals_padded_in_bf16_as_far_as_its_precision_goes(family):
    model = small_model(family)
    # Reference: how far bf16 itself is from fp32 on the padded path.
    examples = random_examples(6, preamble=5)
    exact_loss, exact = loss_and_gradients(model, make_batch(examples, "padded", 0.3))
    loss, gradients = loss_and_gradients(model, make_batch(examples, "packed", 0.3), runtime=BFLOAT16)
    assert loss == pytest.approx(exact_loss, rel=0.02)
    for name, gradient in exact.items():
        difference = (gradients[name] - gradient).norm() / gradient.norm()
        assert difference < 0.05, f"{name}: {difference}"


@families
@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_padding_id_does_not_matter(family, batching):
    model, examples = small_model(family), random_examples(5)
    loss, gradients = loss_and_gradients(model, make_batch(examples, batching, 0.3, pad_id=END))
    for pad_id in (0, 42):
        other_loss, other = loss_and_gradients(model, make_batch(examples, batching, 0.3, pad_id=pad_id))
        assert other_loss == pytest.approx(loss, rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-7)


@families
@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_a_record_does_not_see_its_neighbours(family, batching):
    model, examples = small_model(family), random_examples(4, preamble=3)
    alone = sum(loss_sum(model, make_batch([item], batching)).item() for item in examples)
    together = loss_sum(model, make_batch(examples, batching)).item()
    assert together == pytest.approx(alone, rel=1e-5)


def test_packing_computes_the_shared_prefix_once_and_no_padding():
    examples = random_examples(8, preamble=7)
    inputs = [item.ids[:-1] for item in examples]
    prefix = shared_prefix(inputs)
    assert prefix == 7
    packed = make_batch(examples, "packed")
    assert packed.input_ids.shape == (1, prefix + sum(len(ids) - prefix for ids in inputs))
    assert make_batch(examples, "padded").input_ids.numel() == 8 * max(map(len, inputs))


def test_shared_prefix_by_hand():
    assert shared_prefix([(1, 2, 3)]) == 3
    assert shared_prefix([(1, 2, 3), (1, 2, 4), (1, 2)]) == 2
    assert shared_prefix([(1, 2), (1, 2)]) == 2
    assert shared_prefix([(1,), (2,)]) == 0
    assert shared_prefix([(1, 9), (1, 2, 9), (1, 2, 3)]) == 1

import pytest
import torch
from huggingface import as_ours, random_gpt2, random_llama
from small_training import END, FAMILIES, lora_params, loss_and_gradients, make_batch, random_examples, small_model
from torch.nn.utils.rnn import pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from instruct.model.checkpoint import random_model
from instruct.model.gpt2 import GPT2Config
from instruct.model.lora import add_lora
from instruct.training.collate import IGNORE_INDEX
from instruct.training.loss import LossModule, loss_sum, needed_flops

pytestmark = pytest.mark.usefixtures("one_thread")
THEIRS = {"gpt2": lambda: random_gpt2(n_positions=64), "llama": random_llama}


def transformers_loss(model, examples):
    """The mean over supervised tokens that transformers takes itself, which is TRL's definition too."""
    ids = pad_sequence([torch.tensor(item.ids) for item in examples], batch_first=True)
    labels = [
        torch.tensor([IGNORE_INDEX] * item.prompt_length + list(item.ids[item.prompt_length :])) for item in examples
    ]
    mask = pad_sequence([torch.ones(len(item.ids)) for item in examples], batch_first=True)
    padded = pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)
    return model(input_ids=ids, attention_mask=mask, labels=padded).loss


@pytest.mark.parametrize("family", THEIRS)
@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_loss_of_a_step_equals_transformers(tmp_path, family, batching):
    theirs = THEIRS[family]()
    ours = as_ours(theirs, tmp_path)
    examples = random_examples(6, preamble=4)
    loss, gradients = loss_and_gradients(ours, make_batch(examples, batching))
    expected = transformers_loss(theirs, examples)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    their_gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    assert len(gradients) == len(their_gradients)
    for name, gradient in gradients.items():
        ours_as_theirs = gradient.t() if name.endswith(ours.transposed) else gradient
        torch.testing.assert_close(ours_as_theirs, their_gradients[ours.prefix + name], rtol=1e-3, atol=1e-5, msg=name)


def test_head_runs_only_where_there_is_a_target(monkeypatch):
    model, examples = small_model("gpt2"), random_examples(5)
    rows = []
    plain = type(model).logits

    def counting(self, hidden):
        rows.append(len(hidden))
        return plain(self, hidden)

    monkeypatch.setattr(type(model), "logits", counting)
    loss_sum(model, make_batch(examples, "packed"))
    assert rows == [sum(len(item.ids) - item.prompt_length for item in examples)]


@pytest.mark.parametrize("family", FAMILIES)
def test_weighted_loss_by_hand(family):
    model, examples = small_model(family), random_examples(3)
    expected = total = 0.0
    for item in examples:
        ids = torch.tensor([item.ids])
        with torch.no_grad():
            nll = -model(ids[:, :-1])[0].double().log_softmax(-1)
        for place, target in enumerate(item.ids[1:]):
            weight = 0.3 if place + 1 < item.prompt_length else 1.0
            expected += weight * float(nll[place, target])
            total += weight
    loss, _ = loss_and_gradients(model, make_batch(examples, "packed", 0.3))
    assert loss == pytest.approx(expected / total, rel=1e-5)


def test_gradients_are_the_same_bytes_every_time_with_two_threads():
    # One place predicts many targets, whose gradients are added up: the order must not depend on the threads.
    torch.set_num_threads(2)
    model = random_model(GPT2Config(vocab_size=97, n_positions=64, n_embd=64, n_layer=1, n_head=2), seed=1)
    examples = random_examples(90, longest=12, preamble=7)
    batch = make_batch(examples, "packed", 0.3)
    assert len(batch.places) * 64 > 32768 and len(set(batch.places.tolist())) < len(batch.places)
    seen = set()
    for _ in range(4):
        _, gradients = loss_and_gradients(model, batch)
        seen.add(b"".join(gradient.numpy().tobytes() for gradient in gradients.values()))
    assert len(seen) == 1


class Made(TorchDispatchMode):
    """Names the operations that make a tensor of some shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.names = shape, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result.is_sparse and result.shape == self.shape:
            self.names.append(str(function))
        return result


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_of_the_tied_matrix_is_summed_in_place_to_the_same_bytes(family):
    """Its size is a large part of a small model's: autograd would copy it to add a few rows."""
    found = []
    for in_place in (False, True):
        model = small_model(family)
        model.lookup_in_place = in_place
        batch = make_batch(random_examples(6, preamble=4), "packed", 0.3)
        with Made(model.embedding.weight.shape) as made:
            loss, gradients = loss_and_gradients(model, batch)
        found.append((loss, {name: gradient.numpy().tobytes() for name, gradient in gradients.items()}, made.names))
    assert found[0][:2] == found[1][:2]
    assert ["aten.add.Tensor" in names for *_, names in found] == [True, False]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_two_batches_add_up_in_place(family):
    model, batches = small_model(family), [make_batch(random_examples(4, seed=seed), "packed") for seed in (1, 2)]
    name = next(name for name, weight in model.named_parameters() if weight is model.embedding.weight)
    expected = [loss_and_gradients(model, batch)[1][name] for batch in batches]
    model.lookup_in_place = True
    model.zero_grad(set_to_none=True)
    for batch in batches:
        (loss_sum(model, batch) / batch.weights.sum()).backward()
    torch.testing.assert_close(model.embedding.weight.grad, expected[0] + expected[1])


def test_needed_operations_by_hand():
    config = GPT2Config(vocab_size=97, n_positions=64, n_embd=24, n_layer=2, n_head=4, eos_token_id=END)
    model = random_model(config, seed=1)
    batch = make_batch(random_examples(3), "packed")
    tokens, targets = batch.input_ids.numel(), len(batch.places)
    in_blocks, head = 2 * 12 * 24 * 24, 97 * 24
    assert needed_flops(model, batch) == 6 * (in_blocks * tokens + head * targets)
    add_lora(model, lora_params(r=2, target_modules=("c_fc",)), seed=0)
    adapters = 2 * (2 * 24 + 2 * 96)
    assert needed_flops(model, batch) == 4 * (in_blocks * tokens + head * targets) + 6 * adapters * tokens


def test_operations_are_counted_in_training_only():
    model = small_model("gpt2")
    module, batch = LossModule(model), make_batch(random_examples(3), "packed")
    module.train()
    module(batch)
    module(batch)
    module.eval()
    module(batch)
    assert module.needed_flops == 2 * needed_flops(model, batch)

import pytest
import torch
from small_training import CPU, END, example, make_batch, random_examples

from instruct.core.errors import DataError
from instruct.training.collate import IGNORE_INDEX, collate, pad_rows, target_weights, without_targets
from instruct.training.encode import EncodedExample

P = 50256


def encoded(ids: list[int], prompt_length: int) -> EncodedExample:
    return EncodedExample(id=str(ids), ids=(*ids, P), prompt_length=prompt_length)


def targets_of(batch, rows: int) -> list[list[tuple[int, float]]]:
    """(label, weight) of each row's targets, of a padded batch."""
    width = batch.input_ids.shape[1]
    found: list[list[tuple[int, float]]] = [[] for _ in range(rows)]
    for place, label, weight in zip(batch.places.tolist(), batch.labels.tolist(), batch.weights.tolist(), strict=True):
        found[place // width].append((label, weight))
    return found


def test_worked_example_of_the_book():
    examples = [encoded([0, 1, 2, 3, 4], 2), encoded([5, 6], 1), encoded([7, 8, 9], 1)]
    inputs, labels, weights = pad_rows(examples, pad_id=P, prompt_loss_weight=1.0)
    assert inputs.tolist() == [[0, 1, 2, 3, 4], [5, 6, P, P, P], [7, 8, 9, P, P]]
    assert labels.tolist() == [[1, 2, 3, 4, P], [6, P, -100, -100, -100], [8, 9, P, -100, -100]]
    assert weights.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]


def test_worked_example_as_a_batch_keeps_only_places_with_a_target():
    examples = [encoded([0, 1, 2, 3, 4], 2), encoded([5, 6], 1), encoded([7, 8, 9], 1)]
    batch = make_batch(examples, "padded", weight=1.0, pad_id=P)
    assert batch.places.tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12]
    assert batch.labels.tolist() == [1, 2, 3, 4, P, 6, P, 8, 9, P]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert batch.tokens == 6 + 3 + 4


def test_packed_example_by_hand():
    # prompts 5 6 7 and 5 6 8 9, responses 10 and 11 12: 5 6 is computed once, the end token of each is a target only
    examples = [encoded([5, 6, 7, 10], 3), encoded([5, 6, 8, 9, 11, 12], 4)]
    batch = make_batch(examples, "packed")
    assert batch.input_ids.tolist() == [[5, 6, 7, 10, 8, 9, 11, 12]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 2, 3, 4, 5]]
    assert batch.places.tolist() == [2, 3, 5, 6, 7]
    assert batch.labels.tolist() == [10, P, 11, 12, P]
    assert batch.weights.tolist() == [1, 1, 1, 1, 1]


def test_targets_inside_the_shared_prefix_are_computed_once_with_their_summed_weight():
    examples = [encoded([5, 6, 7], 2), encoded([5, 6, 8], 2)]
    batch = make_batch(examples, "packed", weight=0.25)
    # place 0 predicts 6 for both; place 1, the last of the prefix, predicts 7 and 8; then each one's end
    assert batch.input_ids.tolist() == [[5, 6, 7, 8]]
    assert batch.places.tolist() == [0, 1, 2, 1, 3]
    assert batch.labels.tolist() == [6, 7, P, 8, P]
    assert batch.weights.tolist() == [0.5, 1, 1, 1, 1]


def test_end_of_text_id_inside_the_text_does_not_shift_the_mask():
    plain, tricky = encoded([1, 2, 3, 4, 5], 3), encoded([1, P, P, 4, P], 3)
    _, labels, weights = pad_rows([plain, tricky], pad_id=P, prompt_loss_weight=0.0)
    assert weights[0].tolist() == weights[1].tolist() == [0, 0, 1, 1, 1]
    assert labels[0].tolist() == [-100, -100, 4, 5, P]
    assert labels[1].tolist() == [-100, -100, 4, P, P]


def test_prompt_tokens_carry_no_loss():
    for item in random_examples(20):
        (row,) = targets_of(make_batch([item], "padded"), 1)
        assert [label for label, _ in row] == list(item.ids[item.prompt_length :])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_exactly_one_end_token_target_per_record(weight):
    examples = random_examples(12)
    for row in targets_of(make_batch(examples, "padded", weight=weight, pad_id=END), len(examples)):
        assert [(label, value) for label, value in row if label == END] == [(END, 1.0)]
        assert row[-1] == (END, 1.0)
    packed = make_batch(examples, "packed", weight=weight, pad_id=END)
    assert packed.labels.tolist().count(END) == len(examples)


def test_every_other_place_is_ignored_by_length():
    examples = random_examples(7)
    _, labels, weights = pad_rows(examples, pad_id=END, prompt_loss_weight=1.0)
    for item, row, row_weights in zip(examples, labels.tolist(), weights.tolist(), strict=True):
        length = len(item.ids) - 1
        assert row[:length] == list(item.ids[1:])
        assert set(row[length:]) <= {IGNORE_INDEX}
        assert row_weights == [1.0] * length + [0.0] * (len(row) - length)


def test_weights_count_prompt_targets_as_the_setting_says():
    # the target of place i is token i + 1, so a prompt of 3 tokens has 2 targets inside
    assert target_weights(example([1, 2, 3], [4, 5]), 0.3) == [0.3, 0.3, 1.0, 1.0, 1.0]
    assert target_weights(example([], [4, 5]), 0.3) == [1.0, 1.0]
    assert target_weights(example([1], []), 0.3) == [1.0]


@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("ids", [(1, 2, 3), (END,)])
def test_record_without_a_supervised_token_is_refused(batching, ids):
    only_prompt = EncodedExample(id="r7", ids=ids, prompt_length=len(ids))
    with pytest.raises(DataError, match=r"record r7: no token is left to learn from; give it an output"):
        make_batch([*random_examples(2), only_prompt], batching)


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_batch_without_targets_keeps_its_shape_and_weighs_nothing(batching):
    batch = make_batch(random_examples(3), batching)
    filler = without_targets(batch)
    assert torch.equal(filler.labels, batch.labels)
    assert filler.weights.tolist() == [0.0] * len(batch.weights)


def test_total_weight_is_the_same_packed_and_padded():
    examples = random_examples(9)
    for weight in (0.0, 0.3, 1.0):
        by_hand = sum(sum(target_weights(item, weight)) for item in examples)
        for batching in ("packed", "padded"):
            batch = collate(examples, batching=batching, pad_id=0, prompt_loss_weight=weight, device=CPU)
            assert float(batch.weights.sum()) == pytest.approx(by_hand, rel=1e-6)

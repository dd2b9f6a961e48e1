"""Attention over what rows hold of their own: the kernels for one new token a row against plain products."""

import pytest
import torch

from instruct.generation.cache import OwnRows, OwnSlots, slot_bags
from instruct.generation.engine import FEW

HEADS = [(12, 1), (25, 1), (3, 3)]  # key heads and queries of each: GPT-2's smallest and largest, SmolLM2
SIZE, CAPACITY = 64, 112  # of a head; places in a slot


@pytest.fixture(params=HEADS, ids=lambda heads: f"{heads[0]}x{heads[1]}")
def slots(request):
    """Keys, values and one query a head for 70 slots."""
    key_heads, groups = request.param
    draw = torch.Generator().manual_seed(key_heads)
    keys, values = (torch.randn(70, key_heads, CAPACITY, SIZE, generator=draw) for _ in range(2))
    return keys, values, torch.randn(70, key_heads, groups, SIZE, generator=draw)


def attend_to_slots(slots, rows, used, seen):
    """Scores and sums of the first rows over so many places, of which each row sees the first `seen`."""
    keys, values, queries = slots
    own = OwnSlots(keys[:rows, :, :used], values, *slot_bags(values, torch.arange(rows), used, groups=queries.shape[2]))
    scores = own.scores(queries[:rows])
    weights = scores.masked_fill(torch.arange(used) >= seen, -torch.inf).softmax(-1)
    return scores, own.sums(weights)


@pytest.mark.parametrize("rows", [16, 17, 70])
@pytest.mark.parametrize("used", [16, 80, CAPACITY])
def test_slots_are_attended_to_as_plain_products_would(slots, rows, used):
    keys, values, queries = slots
    plain = OwnRows(keys[:rows, :, :used], values[:rows, :, :used])
    scores, sums = attend_to_slots(slots, rows, used, seen=used)
    torch.testing.assert_close(scores, plain.scores(queries[:rows]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sums, plain.sums(scores.softmax(-1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [17, 32, 70])
@pytest.mark.parametrize("used", [48, 96, CAPACITY])
def test_neighbours_and_places_unseen_change_no_bit_of_a_row(slots, rows, used):
    scores, sums = attend_to_slots(slots, 16, 32, seen=30)
    among_others, sums_among_others = attend_to_slots(slots, rows, used, seen=30)
    assert torch.equal(among_others[:16, :, :, :32], scores)
    assert torch.equal(sums_among_others[:16], sums)


@pytest.mark.parametrize("rows", FEW)
@pytest.mark.parametrize("used", [16, 96, CAPACITY])
def test_few_rows_have_the_bits_that_they_have_among_many(slots, rows, used):
    scores, sums = attend_to_slots(slots, rows, used, seen=used - 3)
    among_others, sums_among_others = attend_to_slots(slots, 70, used, seen=used - 3)
    assert torch.equal(among_others[:rows], scores)
    assert torch.equal(sums_among_others[:rows], sums)

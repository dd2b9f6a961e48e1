"""Attention of one new token a row to a shared prefix and to its own tokens: the fast kernels, and plain products."""

import pytest
import torch

from instruct.generation.cache import SlotCache, attend_in_parts, attend_to_slots, mask_of, reads_of
from instruct.generation.engine import FEW

HEADS = [(12, 1), (25, 1), (3, 3)]  # key heads and queries of each: GPT-2's smallest and largest, SmolLM2
SLOTS, CAPACITY, SIZE = 70, 112, 64  # places in a slot; size of a head
LAYER = 0


@pytest.fixture(params=[0, 29], ids=lambda prefix: f"prefix{prefix}")
def prefix(request):
    return request.param


@pytest.fixture(params=HEADS, ids=lambda heads: f"{heads[0]}x{heads[1]}")
def cache(request, prefix):
    """A full cache of one layer, and one query a head for each of its slots."""
    key_heads, groups = request.param
    draw = torch.Generator().manual_seed(key_heads)
    made = SlotCache(SLOTS, CAPACITY, torch.device("cpu"))
    if prefix:
        made.prefix_keys[LAYER], made.prefix_values[LAYER] = torch.randn(2, key_heads, prefix, SIZE, generator=draw)
    made.allocate(LAYER, torch.empty(1, key_heads, 1, SIZE))
    made.keys[LAYER].normal_(generator=draw)
    made.values_of_slots(LAYER).normal_(generator=draw)
    return made, torch.randn(SLOTS, key_heads * groups, 1, SIZE, generator=draw)


def attend(cache, slots, used, seen):
    """What the queries of these slots get of `used` places, of which each row sees the first `seen`."""
    made, queries = cache
    slots = torch.tensor(slots)
    mask = mask_of((torch.arange(used) < seen).expand(len(slots), 1, used), made.prefix_length)
    keys = made.keys[LAYER]
    reads = reads_of(keys, slots, mask, groups=queries.shape[1] // keys.shape[1], used=used)
    of_rows = keys[slots][:, :, :used]
    return attend_to_slots(queries[slots], made.prefix_keys.get(LAYER), of_rows, made.values[LAYER], reads)


@pytest.mark.parametrize("slots", [range(16), range(17), range(SLOTS), [3, 3, 3, 9]], ids=str)
@pytest.mark.parametrize("used", [16, 80, CAPACITY])
def test_slots_are_attended_to_as_plain_products_would(cache, slots, used):
    made, queries = cache
    slots = list(slots)
    mask = mask_of((torch.arange(used) < used - 5).expand(len(slots), 1, used), made.prefix_length)
    own = (stored[slots][:, :, :used] for stored in (made.keys[LAYER], made.values_of_slots(LAYER)))
    prefix = (made.prefix_keys[LAYER], made.prefix_values[LAYER]) if made.prefix_length else None
    plain = attend_in_parts(queries[slots], prefix, *own, mask)
    torch.testing.assert_close(attend(cache, slots, used, seen=used - 5), plain, rtol=1e-5, atol=1e-5)


def test_plain_products_attend_as_torch_does_to_prefix_and_own_together(cache):
    made, queries = cache
    mask = mask_of(torch.ones(SLOTS, 1, CAPACITY, dtype=torch.bool), made.prefix_length)
    own = made.keys[LAYER], made.values_of_slots(LAYER)
    prefix = (made.prefix_keys[LAYER], made.prefix_values[LAYER]) if made.prefix_length else None
    whole = [
        torch.cat((part.expand(SLOTS, *part.shape), mine), dim=2) if made.prefix_length else mine
        for part, mine in zip(prefix or own, own, strict=True)
    ]
    expected = torch.nn.functional.scaled_dot_product_attention(queries, *whole, enable_gqa=True)
    torch.testing.assert_close(attend_in_parts(queries, prefix, *own, mask), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [17, 32, SLOTS])
@pytest.mark.parametrize("used", [48, 96, CAPACITY])
def test_neighbours_and_places_unseen_change_no_bit_of_a_row(cache, rows, used):
    alone = attend(cache, range(16), 32, seen=30)
    assert torch.equal(attend(cache, range(rows), used, seen=30)[:16], alone)


@pytest.mark.parametrize("rows", FEW[1:])  # whether two rows have them depends on the model, which the engine tries
@pytest.mark.parametrize("used", [16, 96, CAPACITY])
def test_few_rows_have_the_bits_that_they_have_among_many(cache, rows, used):
    alone = attend(cache, range(rows), used, seen=used - 3)
    assert torch.equal(attend(cache, range(SLOTS), used, seen=used - 3)[:rows], alone)


def test_a_resized_cache_keeps_the_prefix_and_the_first_rows(cache):
    made, _ = cache
    before = attend(cache, range(5), 32, seen=30)
    made.resize(5, 48, rows=5)
    assert torch.equal(attend(cache, range(5), 32, seen=30), before)


def test_a_moved_row_attends_as_it_did(cache):
    made, queries = cache
    before = attend(cache, [7], 32, seen=30)
    made.lengths[7] = 30
    made.move(7, 2)
    queries[2] = queries[7]
    assert torch.equal(attend(cache, [2], 32, seen=30), before)

"""Steps of few rows: as fast as the processor allows, with the bits of a whole tile."""

import pytest
import torch

from instruct.generation import engine as module
from instruct.generation.cache import TILE
from instruct.generation.engine import DRAFTED, FEW, Engine

PREFIX, OWN = [5, 6, 7], [11, 12, 13, 14]


class Counted:
    """A model that notes how many rows each of its steps has, and whose logits `logits_of` makes of (N, C) states."""

    def __init__(self, model, logits_of):
        self._model, self.logits, self.rows = model, logits_of, []
        self.block_size, self.device, self.blocks = model.block_size, model.device, model.blocks

    def hidden_states(self, input_ids, positions, attend):
        if input_ids.shape[1] == 1:  # a step
            self.rows.append(len(input_ids))
        return self._model.hidden_states(input_ids, positions, attend)


def steps(model, vocab_size, count, number=4):
    """The logits of so many steps of `count` answers."""
    engine = Engine(model, PREFIX, slots=count, capacity=32, vocab_size=vocab_size)
    found = [engine.prefill([[*OWN, place] for place in range(count)], first=0)]
    for _ in range(number):
        found.append(engine.decode([[token] for token in found[-1].argmax(-1).tolist()]))
        engine.keep([1] * count)
    return torch.stack(found)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 5, 8])
def test_a_step_of_few_rows_has_the_bits_of_a_whole_tile(small, tokenizer, monkeypatch, count, threads):
    torch.set_num_threads(threads)
    with torch.inference_mode():
        got = steps(small, tokenizer.vocab_size, count)
        monkeypatch.setattr(module, "FEW", ())
        assert torch.equal(got, steps(small, tokenizer.vocab_size, count))


def test_rows_that_change_the_bits_are_tried_once_and_never_used(small, tokenizer):
    model = Counted(small, lambda hidden: torch.full((len(hidden), tokenizer.vocab_size), float(len(hidden))))
    with torch.inference_mode():
        steps(model, tokenizer.vocab_size, 1)
    assert model.rows == [*(rows for few in FEW for rows in (TILE, few)), *[TILE] * 4]


@pytest.mark.parametrize(("count", "rows"), [(1, 2), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_rows_that_keep_the_bits_are_tried_once_and_used(small, tokenizer, count, rows):
    model = Counted(small, lambda hidden: torch.ones(len(hidden), tokenizer.vocab_size))
    with torch.inference_mode():
        steps(model, tokenizer.vocab_size, count)
    assert model.rows == [TILE, rows, *[rows] * 4]


def test_drafts_are_checked_in_a_step_of_more_rows_than_answers_alone_need(small, tokenizer):
    model = Counted(small, lambda hidden: torch.ones(len(hidden), tokenizer.vocab_size))
    with torch.inference_mode():
        engine = Engine(model, PREFIX, slots=1, capacity=32, vocab_size=tokenizer.vocab_size)
        engine.prefill([OWN], first=0)
        assert engine.spare(1) == DRAFTED - 1
        assert engine.spare(DRAFTED) == 0
        model.rows.clear()
        for text in ([9], [9, 8, 7, 6]):
            engine.decode([text])
            engine.keep([1])
    assert model.rows == [TILE, 2, 2, DRAFTED]

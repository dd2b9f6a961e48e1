from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from instruct.core.errors import ParamsError
from instruct.core.params import load_params
from instruct.generation.sampling import make_generator, next_token
from instruct.generation.settings import GenerateParams

ROOT = Path(__file__).parents[2]
DRAWS = 5000


@pytest.fixture(scope="module")
def greedy() -> GenerateParams:
    params = load_params("generate", GenerateParams, ROOT / "params.yaml")
    return replace(params, temperature=0.0, top_k=0, top_p=1.0)


def draw_many(logits: torch.Tensor, params: GenerateParams, draws: int = DRAWS) -> Counter[int]:
    generator = make_generator(7, "one record")
    return Counter(next_token(logits, params, generator) for _ in range(draws))


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_temperature_zero_takes_the_largest_logit(greedy):
    logits = torch.tensor([0.5, -2.0, 3.25, 3.0])
    assert next_token(logits, greedy, make_generator(1, "a")) == 2


@pytest.mark.parametrize(
    ("logits", "first"),
    [([1.0, 5.0, 5.0, 5.0], 1), ([0.0] * 50, 0), ([-1e30, -1e30], 0), ([2.0, float("-inf"), 2.0], 0)],
)
def test_temperature_zero_takes_the_first_of_equal_logits(greedy, logits, first):
    assert next_token(torch.tensor(logits), greedy, make_generator(1, "a")) == first


def test_greedy_leaves_the_generator_untouched(greedy):
    generator = make_generator(1, "a")
    before = generator.get_state()
    next_token(torch.tensor([0.0, 1.0]), greedy, generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, {0, 1, 2, 3}),
        (1, 1.0, {3}),
        (2, 1.0, {3, 1}),
        (3, 1.0, {3, 1, 2}),
        (4, 1.0, {0, 1, 2, 3}),
        (1000, 1.0, {0, 1, 2, 3}),
        (0, 0.01, {3}),
        (0, 0.39, {3}),
        (0, 0.41, {3, 1}),
        (0, 0.69, {3, 1}),
        (0, 0.71, {3, 1, 2}),
        (0, 0.91, {0, 1, 2, 3}),
        # 0.4, 0.3 and 0.2 of 0.9 are 0.44, 0.33 and 0.22: nucleus works on what top-k has left.
        (3, 0.75, {3, 1}),
        (3, 0.79, {3, 1, 2}),
        (2, 0.5, {3}),
    ],
)
def test_top_k_and_top_p_keep_exactly_the_right_tokens(greedy, top_k, top_p, kept):
    params = replace(greedy, temperature=1.0, top_k=top_k, top_p=top_p)
    assert set(draw_many(logits_of(0.1, 0.3, 0.2, 0.4), params, 300)) == kept


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.25, {0}), (0.26, {0, 1}), (0.5, {0, 1}), (0.75, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_nucleus_stops_where_it_reaches_top_p_and_takes_equal_tokens_in_order(greedy, top_p, kept):
    params = replace(greedy, temperature=1.0, top_p=top_p)
    assert set(draw_many(torch.zeros(4), params, 200)) == kept


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_top_k_takes_the_first_of_equal_tokens_and_no_more(greedy, top_p):
    params = replace(greedy, temperature=1.0, top_k=2, top_p=top_p)
    assert set(draw_many(torch.tensor([0.0, 1.0, 0.0, 0.0]), params, 200)) == {1, 0}


def test_impossible_tokens_are_never_drawn(greedy):
    logits = torch.tensor([float("-inf"), 0.0, float("-inf"), 0.0])
    assert set(draw_many(logits, replace(greedy, temperature=10.0), 300)) == {1, 3}


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.5, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.8), (0.7, 6, 0.9), (1.8, 9, 0.5)],
)
def test_tokens_come_as_often_as_the_warpers_of_transformers_say(greedy, temperature, top_k, top_p):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(5)) * 1.5
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(torch.zeros(1, 1, dtype=torch.long), logits[None])[0].softmax(-1).tolist()
    drawn = draw_many(logits, replace(greedy, temperature=temperature, top_k=top_k, top_p=top_p))
    for token, share in enumerate(expected):
        margin = 4 * (share * (1 - share) / DRAWS) ** 0.5
        assert abs(drawn[token] / DRAWS - share) <= margin, (token, share, drawn[token])


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_the_lowest_temperatures_are_greedy_and_never_overflow(greedy, temperature):
    drawn = draw_many(torch.tensor([-80.0, 90.0, 89.0]), replace(greedy, temperature=temperature), 20)
    assert set(drawn) == {1}


def test_a_bfloat16_row_is_drawn_like_its_double(greedy):
    params = replace(greedy, temperature=1.0, top_k=20, top_p=0.9)
    logits = torch.randn(100, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert draw_many(logits, params, 100) == draw_many(logits.double(), params, 100)


def test_drawing_leaves_the_logits_as_they_were(greedy):
    logits = torch.randn(10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = logits.clone()
    next_token(logits, replace(greedy, temperature=0.3), make_generator(1, "a"))
    assert torch.equal(logits, before)


def numbers(seed: int, record_id: str) -> list[float]:
    return torch.rand(4, generator=make_generator(seed, record_id)).tolist()


def test_a_generator_depends_on_seed_and_id_only():
    torch.manual_seed(0)
    first = numbers(123, "a1b2")
    torch.manual_seed(99)
    torch.rand(10)
    numbers(123, "another record in between")
    assert numbers(123, "a1b2") == first
    # printf '123\x1fa1b2' | sha256sum: a4fd6d3a965cd277..., shifted right by one bit
    by_hand = torch.Generator().manual_seed(0x527EB69D4B2E693B)
    assert torch.rand(4, generator=by_hand).tolist() == first


def test_other_seeds_and_ids_give_other_numbers():
    pairs = [(1, "2x"), (12, "x"), (1, "x"), (2, "x"), (0, ""), (1, "x "), (1, "\u00e9"), (1, "e\u0301")]
    assert len({tuple(numbers(*pair)) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 11.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("seed", -1),
        ("max_new_tokens", 0),
        ("batch_size", 0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(greedy, name, value):
    with pytest.raises(ParamsError, match=f"^{name} must be .*, is "):
        replace(greedy, **{name: value})

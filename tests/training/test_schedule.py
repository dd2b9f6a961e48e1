import pytest

from instruct.training.schedule import WarmupCosine


def rates(**values: float) -> list[float]:
    schedule = WarmupCosine(**values)  # type: ignore[arg-type]
    return [schedule(step) for step in range(int(values["total_steps"]))]


def test_warmup_and_cosine_equal_a_table_made_by_hand():
    # cos(pi / 4) = 0.70710678: 0.1 + 0.45 * (1 + 0.70710678) = 0.868198
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.868198, 0.55, 0.231802, 0.1]
    assert rates(peak=1.0, floor=0.1, warmup_steps=4, total_steps=9) == pytest.approx(expected, abs=1e-6)


def test_without_warmup_the_first_step_has_the_peak_and_the_last_the_floor():
    expected = [2e-4, 1e-4, 0.0]
    assert rates(peak=2e-4, floor=0.0, warmup_steps=0, total_steps=3) == pytest.approx(expected, abs=1e-12)


def test_floor_equal_to_peak_is_constant_after_warmup():
    assert rates(peak=0.5, floor=0.5, warmup_steps=2, total_steps=5) == [0.25, 0.5, 0.5, 0.5, 0.5]


def test_run_shorter_than_the_warmup_only_rises():
    assert rates(peak=1.0, floor=0.0, warmup_steps=10, total_steps=3) == pytest.approx([0.1, 0.2, 0.3])


def test_one_step_has_the_peak():
    assert rates(peak=0.3, floor=0.0, warmup_steps=0, total_steps=1) == [0.3]


def test_no_rate_is_zero_before_the_end_or_leaves_its_bounds():
    for rate in rates(peak=1.0, floor=0.2, warmup_steps=7, total_steps=50)[7:]:
        assert 0.2 <= rate <= 1.0
    assert min(rates(peak=1.0, floor=0.0, warmup_steps=7, total_steps=50)[:-1]) > 0

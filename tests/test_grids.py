from itertools import combinations, product

import pytest
from grids import covering, thinned


@pytest.mark.parametrize(
    ("sizes", "together"), [((12, 2, 3), 2), ((5, 2, 2), 2), ((9, 2), 1), ((4, 5, 4), 2), ((3,), 1)]
)
def test_every_combination_is_in_a_cell_that_is_kept(sizes, together):
    kept = covering(sizes, together)
    axes = [[(axis, value) for value in range(size)] for axis, size in enumerate(sizes)]
    wanted = {one for few in combinations(axes, together) for one in product(*few)}
    assert wanted == {one for cell in kept for one in combinations(enumerate(cell), together)}
    largest = sorted(sizes)[-together:]
    assert len(kept) <= 1.3 * largest[0] * (largest[1] if together == 2 else 1)


def test_nothing_is_lost_but_to_the_slow_tests():
    cells = thinned({"one": 1, "two": 2}, "abc", together=1)
    assert [(cell.values, cell.id) for cell in cells] == [
        ((value, letter), f"{name}-{letter}") for name, value in (("one", 1), ("two", 2)) for letter in "abc"
    ]
    assert {one.name for cell in cells for one in cell.marks} == {"slow"}
    quick = [cell.values for cell in cells if not cell.marks]
    assert len(quick) == 3 and {value for value, _ in quick} == {1, 2}

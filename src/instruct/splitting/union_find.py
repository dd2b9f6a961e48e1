"""Disjoint sets of whole numbers."""


class UnionFind:
    """Sets of the numbers from 0; the smallest of a set stands for it."""

    def __init__(self, count: int = 0) -> None:
        self._up = list(range(count))

    def __len__(self) -> int:
        return len(self._up)

    def add(self) -> int:
        """Make a set of the next number."""
        self._up.append(len(self._up))
        return len(self._up) - 1

    def find(self, one: int) -> int:
        """The smallest number in the set of `one`."""
        up = self._up
        while up[one] != one:
            up[one] = up[up[one]]
            one = up[one]
        return one

    def join(self, one: int, other: int) -> bool:
        """Make two sets one; whether they were two."""
        one, other = self.find(one), self.find(other)
        self._up[max(one, other)] = min(one, other)
        return one != other

"""Majority vote among several answers to one prompt (self-consistency, Wang et al., 2022)."""

from collections import Counter
from collections.abc import Sequence


def sample_ids(record_id: str, num_samples: int) -> list[str]:
    """The id of each answer to one record, which seeds its random generator."""
    return [record_id] if num_samples == 1 else [f"{record_id}#{i}" for i in range(num_samples)]


def majority(answers: Sequence[str]) -> int:
    """The index of the first of the most common answers; ignores case, spaces and a final mark.

    >>> majority(["Lyon", "Paris.", "paris"]), majority(["5", "-5", "-5"]), majority(["a", "b"])
    (1, 1, 0)
    >>> majority(["Lyon", "Paris !", "Paris"])
    1
    """
    normal = [" ".join(answer.casefold().split()).rstrip(".!? ") or answer for answer in answers]
    counts = Counter(normal)
    return max(range(len(normal)), key=lambda i: (counts[normal[i]], -i))

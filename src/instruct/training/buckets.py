"""Few fixed shapes for the flat rows of a run, so that each can be recorded once and replayed.

T tokens of a row · N targets
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct.training.collate import Batch, target_weights
from instruct.training.encode import EncodedExample
from instruct.training.packing import DENSE_TOKENS, TreeAttend, shared_prefix

MOST = 4  # buckets of a run: each costs a recording, about half a second
GRAIN = 64  # sizes are multiples of it, which kernels like


@dataclass(frozen=True, order=True)
class Bucket:
    """A row of so many tokens with so many targets; smaller ones are filled up with what changes nothing."""

    tokens: int
    targets: int

    def holds(self, tokens: int, targets: int) -> bool:
        """Whether a row of this size fits."""
        return tokens <= self.tokens and targets <= self.targets


def row_size(examples: Sequence[EncodedExample], prompt_loss_weight: float) -> tuple[int, int]:
    """Tokens of the flat row of these examples, and at most so many targets; cheaper than making the row."""
    inputs = [example.ids[:-1] for example in examples]
    prefix = shared_prefix(inputs)
    targets = sum(sum(map(bool, target_weights(example, prompt_loss_weight))) for example in examples)
    return prefix + sum(len(ids) - prefix for ids in inputs), targets


def choose_buckets(sizes: Iterable[tuple[int, int]], most: int = MOST) -> list[Bucket]:
    """At most `most` buckets that hold all rows of (tokens, targets) with the fewest tokens to fill up.

    Rows of more than `DENSE_TOKENS` tokens are left out. The same rows give the same buckets, in rising order.
    """
    counts: Counter[int] = Counter()
    targets: dict[int, int] = {}
    for tokens, count in sizes:
        if tokens <= DENSE_TOKENS:
            size = _rounded(tokens)
            counts[size] += 1
            targets[size] = max(targets.get(size, 0), _rounded(count))
    ordered = sorted(counts)
    return [Bucket(part[-1], max(targets[size] for size in part)) for part in _cheapest_cut(ordered, counts, most)]


def _cheapest_cut(sizes: list[int], counts: Counter[int], most: int) -> list[list[int]]:
    """Rising sizes cut into at most `most` pieces, each as dear as its largest size times its rows."""
    best: dict[int, tuple[int, list[list[int]]]] = {0: (0, [])}  # sizes covered -> cost, pieces
    for _ in range(most):
        longer = dict(best)
        for begin, (cost, cut) in best.items():
            rows = 0
            for end in range(begin, len(sizes)):
                rows += counts[sizes[end]]
                found = (cost + rows * sizes[end], [*cut, sizes[begin : end + 1]])
                longer[end + 1] = min(longer.get(end + 1, found), found, key=lambda one: (one[0], len(one[1])))
        best = longer
    return best[len(sizes)][1]


def _rounded(count: int) -> int:
    return max(-(-count // GRAIN), 1) * GRAIN


class Slots:
    """The tensors in which a bucket's row is put before each replay: a recorded step reads only these."""

    def __init__(self, bucket: Bucket, device: torch.device) -> None:
        self.bucket = bucket
        self._numbers = torch.zeros(3 * bucket.tokens + 2 * bucket.targets, dtype=torch.long, device=device)
        self.weights = torch.zeros(bucket.targets, device=device)

    def fill(self, numbers: Tensor, weights: Tensor) -> None:
        """Take over what `fit_bucket` made."""
        self._numbers.copy_(numbers, non_blocking=True)
        self.weights.copy_(weights, non_blocking=True)

    def batch(self) -> Batch:
        """The row as a batch whose tensors are the slots themselves."""
        tokens, targets = self.bucket.tokens, self.bucket.targets
        ids, positions, ends, places, labels = self._numbers.split([tokens] * 3 + [targets] * 2)
        return Batch(
            input_ids=ids[None],
            positions=positions[None],
            attend=TreeAttend(ends),
            places=places,
            labels=labels,
            weights=self.weights,
            tokens=0,
        )


def fit_bucket(batch: Batch, bucket: Bucket) -> tuple[Tensor, Tensor]:
    """A flat row on the CPU as the numbers and weights of `Slots`.

    Tokens that fill it up see only themselves and are seen by no other; targets that fill it up weigh nothing.
    """
    assert isinstance(batch.attend, TreeAttend)
    tokens, targets = batch.input_ids.numel(), len(batch.places)
    assert bucket.holds(tokens, targets)
    ends = torch.cat((batch.attend.ends, torch.arange(tokens, bucket.tokens) + 1))
    row = [F.pad(part, (0, bucket.tokens - tokens)) for part in (batch.input_ids[0], batch.positions[0])]
    goal = [F.pad(part, (0, bucket.targets - targets)) for part in (batch.places, batch.labels)]
    return torch.cat((*row, ends, *goal)), F.pad(batch.weights, (0, bucket.targets - targets))

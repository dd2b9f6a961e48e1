"""Few fixed shapes for the flat rows of a run, so that each can be recorded once and replayed.

T tokens of a row · N targets
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct.training.collate import B, Batch, target_weights
from instruct.training.encode import EncodedExample
from instruct.training.packing import DENSE_TOKENS, TreeAttend, shared_prefix

MOST = 4  # buckets of a run: each costs a recording
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


class Slots(Generic[B]):
    """The tensors in which a bucket's row is put before each replay: a recorded step reads only these."""

    def __init__(self, row: B, device: torch.device) -> None:
        """Room for rows with the shapes of `row`, which is filled up to the bucket."""
        self._row = replace(row, tokens=0)
        self._joined = {dtype: torch.zeros_like(whole, device=device) for dtype, whole in join(row).items()}
        self._views: dict[str, Tensor] = {}
        for dtype, whole in self._joined.items():
            own = {name: tensor for name, tensor in tensors_of(row).items() if tensor.dtype == dtype}
            parts = whole.split([like.numel() for like in own.values()])
            self._views |= {name: part.view_as(own[name]) for name, part in zip(own, parts, strict=True)}

    def fill(self, joined: Mapping[torch.dtype, Tensor]) -> None:
        """Take over what `join` made of a row."""
        for dtype, whole in joined.items():
            self._joined[dtype].copy_(whole, non_blocking=True)

    def batch(self) -> B:
        """The row as a batch whose tensors are the slots themselves."""
        views: dict[str, Any] = dict(self._views)
        return replace(self._row, attend=TreeAttend(views.pop("ends")), **views)


def join(row: Batch) -> dict[torch.dtype, Tensor]:
    """All tensors of a flat row as one of each type, since each copy to a GPU is a launch."""
    parts: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors_of(row).values():
        parts.setdefault(tensor.dtype, []).append(tensor.flatten())
    return {dtype: torch.cat(tensors) for dtype, tensors in parts.items()}


def tensors_of(row: Batch) -> dict[str, Tensor]:
    """What a flat row consists of, by name."""
    assert isinstance(row.attend, TreeAttend)
    return {"ends": row.attend.ends, **{name: getattr(row, name) for name in row.tensors}}


def fill_up(batch: Batch, bucket: Bucket) -> Batch:
    """A flat row on the CPU, filled up to the bucket: the targets that do so weigh nothing."""
    spare = bucket.targets - len(batch.places)
    return replace(fill_up_row(batch, bucket), weights=F.pad(batch.weights, (0, spare)))


def fill_up_row(batch: B, bucket: Bucket) -> B:
    """Tokens and targets filled up; the tokens that do so see only themselves and are seen by no other."""
    assert isinstance(batch.attend, TreeAttend)
    tokens, targets = batch.input_ids.numel(), len(batch.places)
    assert bucket.holds(tokens, targets)
    row, goal = (0, bucket.tokens - tokens), (0, bucket.targets - targets)
    return replace(
        batch,
        input_ids=F.pad(batch.input_ids, row),
        positions=F.pad(batch.positions, row),
        attend=TreeAttend(torch.cat((batch.attend.ends, torch.arange(tokens, bucket.tokens) + 1))),
        places=F.pad(batch.places, goal),
        labels=F.pad(batch.labels, goal),
    )

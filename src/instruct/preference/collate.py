"""Encoded pairs to one batch, packed as a tree of tokens or padded; both give the same loss and gradients.

P pairs · A = 2 P answers, those chosen first · N targets: one that several answers share is there once
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct.preference.encode import EncodedPair
from instruct.training.buckets import Bucket, fill_up_row
from instruct.training.collate import Batch, pad
from instruct.training.encode import EncodedExample
from instruct.training.packing import PathAttend, TreeAttend, grow_tree
from instruct.training.settings import Batching


@dataclass(frozen=True, kw_only=True)
class PairBatch(Batch):
    """A batch whose `weights` (P,) say how much each pair counts.

    `in_answer[a, n]` says whether target n is one of answer a, (A, N). `lengths` are the tokens of each answer with its
    end token, and `reference` its log-prob by the reference model, both (A,).
    """

    tensors: ClassVar[tuple[str, ...]] = (*Batch.tensors, "in_answer", "lengths", "reference")

    in_answer: Tensor
    lengths: Tensor
    reference: Tensor


def exact(device: torch.device) -> torch.dtype:
    """The type in which log-probs are summed and compared: float64, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64


def collate_pairs(
    pairs: Sequence[EncodedPair], *, batching: Batching, pad_id: int, device: torch.device, flat: bool | None = None
) -> PairBatch:
    """Make a batch; pairs without reference log-probs get zeros.

    `flat` says whether packed attention runs over the flat row instead of gathered ones; None: where there is CUDA.
    """
    sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    reference = [pair.reference or (0.0, 0.0) for pair in pairs]
    common: dict[str, Any] = {
        "weights": torch.ones(len(pairs), dtype=exact(device)),
        "lengths": torch.tensor([side.response_tokens for side in sides]),
        "reference": torch.tensor(reference, dtype=exact(device)).t().flatten(),
        "tokens": sum(side.token_count for side in sides),
    }
    if batching == "padded":
        return _pad(sides, pad_id, common).to(device)
    return _pack(sides, common, device, device.type == "cuda" if flat is None else flat).to(device)


def _pad(sides: Sequence[EncodedExample], pad_id: int, common: dict[str, Any]) -> PairBatch:
    """One row an answer, padded on the right to the longest."""
    rows = pad(sides, pad_id=pad_id, prompt_loss_weight=0.0, device=torch.device("cpu"))
    return PairBatch(
        input_ids=rows.input_ids,
        positions=rows.positions,
        attend=rows.attend,
        places=rows.places,
        labels=rows.labels,
        in_answer=rows.places // rows.input_ids.shape[1] == torch.arange(len(sides))[:, None],
        **common,
    )


def _pack(sides: Sequence[EncodedExample], common: dict[str, Any], device: torch.device, flat: bool) -> PairBatch:
    """One flat row: a tree in which a prompt is there once, as is what both its answers begin with."""
    tree = grow_tree([side.ids[:-1] for side in sides])
    targets: dict[tuple[int, int], int] = {}  # (place, label) -> its number
    members = [
        (answer, targets.setdefault((tree.paths[answer][place], label), len(targets)))
        for answer, side in enumerate(sides)
        for place, label in answer_targets(side)
    ]
    in_answer = torch.zeros(len(sides), len(targets), dtype=torch.bool)
    in_answer[torch.tensor(members).unbind(1)] = True
    return PairBatch(
        input_ids=torch.tensor([tree.ids]),
        positions=torch.tensor([tree.positions]),
        attend=TreeAttend(torch.tensor(tree.ends)) if flat else PathAttend(tree, device),
        places=torch.tensor([place for place, _ in targets]),
        labels=torch.tensor([label for _, label in targets]),
        in_answer=in_answer,
        **common,
    )


def answer_targets(side: EncodedExample) -> Iterator[tuple[int, int]]:
    """The place that predicts each token of the answer, its end token too, and that token."""
    yield from enumerate(side.ids[side.prompt_length :], side.prompt_length - 1)


def pair_row_size(pairs: Sequence[EncodedPair]) -> tuple[int, int]:
    """Tokens of the flat row of these pairs, and at most so many targets."""
    tree = grow_tree([side.ids[:-1] for pair in pairs for side in pair.sides])
    return len(tree.ids), sum(pair.response_tokens for pair in pairs)


def fill_up_pairs(batch: PairBatch, bucket: Bucket, pairs: int) -> PairBatch:
    """A flat row on the CPU, filled up to the bucket and to so many pairs: those that do so weigh nothing.

    Their answers have no target, so the log-prob of each is exactly 0, and a length that may divide it.
    """
    row, spare = fill_up_row(batch, bucket), pairs - len(batch.weights)
    targets = bucket.targets - len(batch.places)
    assert spare >= 0
    lengths, reference = (sides.view(2, -1) for sides in (batch.lengths, batch.reference))
    return replace(
        row,
        weights=F.pad(batch.weights, (0, spare)),
        in_answer=F.pad(batch.in_answer.unflatten(0, (2, -1)), (0, targets, 0, spare)).flatten(0, 1),
        lengths=F.pad(lengths, (0, spare), value=1).flatten(),
        reference=F.pad(reference, (0, spare)).flatten(),
    )

"""The loss of a batch: cross-entropy at supervised positions only."""

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct.model.decoder import Decoder, attend_causally
from instruct.training.collate import IGNORE_INDEX, Batch


def loss_sum(model: Decoder, batch: Batch) -> Tensor:
    """The weighted sum of negative log-likelihoods in nats, a scalar.

    The caller divides by the weight of the *whole* optimizer step, so that micro-batches of different lengths add
    up to exactly one large batch. The output head, which is most of a small model's work, runs only where there
    is a label.
    """
    positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand_as(batch.input_ids)
    hidden = model.hidden_states(batch.input_ids, positions, attend_causally)  # (B, T, C)
    supervised = batch.labels != IGNORE_INDEX
    logits = model.logits(hidden[supervised])  # (N, vocab_size)
    nll = F.cross_entropy(logits.float(), batch.labels[supervised], reduction="none")  # (N,)
    return (nll * batch.weights[supervised]).sum()

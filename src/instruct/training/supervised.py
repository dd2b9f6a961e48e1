"""Supervised fine-tuning as an objective: the next token of the answers."""

from functools import partial

import torch

from instruct.core.runtime import Runtime
from instruct.training.buckets import fill_up, row_size
from instruct.training.collate import Batch
from instruct.training.encode import EncodedExample
from instruct.training.loop import batch_maker
from instruct.training.objective import Objective
from instruct.training.settings import TrainParams


def supervised(params: TrainParams, runtime: Runtime, pad_id: int) -> Objective[EncodedExample, Batch]:
    """What `train` trains for, by its settings."""
    to_batch = batch_maker(params, runtime, pad_id)
    return Objective(
        to_batch=to_batch,
        to_row=partial(to_batch, device=torch.device("cpu"), flat=True),
        fill_up=fill_up,
        row_size=partial(row_size, prompt_loss_weight=params.prompt_loss_weight),
    )

"""Supervised fine-tuning as an objective: the next token of the answers."""

from functools import partial

from instruct.core.runtime import Runtime
from instruct.training.buckets import row_size
from instruct.training.collate import Batch
from instruct.training.encode import EncodedExample
from instruct.training.loop import batch_maker
from instruct.training.objective import Objective
from instruct.training.recorded import RecordedStep
from instruct.training.settings import TrainParams


def supervised(params: TrainParams, runtime: Runtime, pad_id: int) -> Objective[EncodedExample, Batch]:
    """What `train` trains for, by its settings."""
    return Objective(
        to_batch=batch_maker(params, runtime, pad_id),
        row_size=partial(row_size, prompt_loss_weight=params.prompt_loss_weight),
        recorder=partial(RecordedStep, params=params, runtime=runtime, pad_id=pad_id),
    )

"""Recorded steps on a CPU, where their operations run one by one, for the tests of training and preference tuning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from instruct.core.runtime import Runtime
from instruct.model.checkpoint import Model
from instruct.training import recorded
from instruct.training.buckets import Bucket, Slots, join
from instruct.training.collate import B
from instruct.training.loop import make_optimizer
from instruct.training.objective import E, Objective
from instruct.training.recorded import RecordedStep
from instruct.training.settings import LoopParams
from instruct.training.trainer import Trainer


def recorded_step(
    model: Model, steps: Sequence[Sequence[E]], objective: Objective[E, B], params: LoopParams, runtime: Runtime
) -> RecordedStep[E, B]:
    """As the Trainer makes it on a GPU."""
    return RecordedStep(
        objective.module(model), make_optimizer(model, params, recorded=True), steps, objective=objective,
        params=params, runtime=runtime,
    )  # fmt: skip


def from_buffers(trainer: Trainer[E, B]) -> Trainer[E, B]:
    """A new trainer, made to take its steps as one on a GPU does."""
    trainer._optimizer = make_optimizer(trainer._model, trainer._params, recorded=True)
    trainer._recorded = RecordedStep(
        trainer._loss_module, trainer._optimizer, trainer.steps, objective=trainer._objective, params=trainer._params,
        runtime=trainer._runtime,
    )  # fmt: skip
    return trainer


def in_slots(batch: B, bucket: Bucket, fill_up: Callable[[B, Bucket], B]) -> B:
    """The batch as a recorded step reads it."""
    row = fill_up(batch, bucket)
    slots = Slots(row, row.input_ids.device)
    slots.fill(join(row))
    return slots.batch()


@dataclass(frozen=True)
class Replay:
    """A graph that runs its operations again, and may do something else after them."""

    operations: Callable[[], None]
    after: Callable[[], object]

    def replay(self) -> None:
        self.operations()
        self.after()


def pretend_to_record(
    monkeypatch: pytest.MonkeyPatch, step: RecordedStep[Any, Any], after: Callable[[], object] = lambda: None
) -> None:
    """Let a step record on a CPU: its graphs hold the operations themselves."""
    monkeypatch.setattr(step, "_cuda", True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(recorded, "beside", lambda operations: operations())
    monkeypatch.setattr(recorded, "capture", lambda operations, pool: Replay(operations, after))


class Stream:
    """A stream on which nothing waits."""

    def synchronize(self) -> None:
        """Everything is done."""

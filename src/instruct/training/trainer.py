"""Training from the first step, or from a stored state, to the last: steps, evaluations, best weights.

It knows no files but the state to go on from.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import accumulate
from typing import Generic

import torch

from instruct.core.errors import InstructError
from instruct.core.progress import Progress
from instruct.core.runtime import Runtime
from instruct.model.decoder import Decoder
from instruct.model.lora import dropout_of, is_adapted
from instruct.training.collate import B
from instruct.training.distributed import Parallel
from instruct.training.history import History, TrainPoint, ValPoint
from instruct.training.loop import draw_steps, evaluate, make_optimizer, take_step
from instruct.training.loss import operations
from instruct.training.objective import E, Objective
from instruct.training.recorded import RecordedStep, same_bytes
from instruct.training.resume import ResumeStore, trainable
from instruct.training.schedule import WarmupCosine
from instruct.training.settings import LoopParams
from instruct.training.snapshot import Snapshot
from instruct.training.throughput import Stopwatch, matmul_peak

log = logging.getLogger(__name__)

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Trainer(Generic[E, B]):
    """Trains `model` for `objective` in place; `best` holds the best weights so far, in host memory.

    `on_evaluation` is called with each evaluation, to show how it goes.
    """

    def __init__(
        self,
        model: Decoder,
        train_set: Sequence[E],
        val_set: Sequence[E],
        *,
        objective: Objective[E, B],
        params: LoopParams,
        runtime: Runtime,
        parallel: Parallel,
        store: ResumeStore,
        stopwatch: Stopwatch,
        on_evaluation: Callable[[ValPoint], None] = lambda point: None,
    ) -> None:
        self._model, self._objective, self._params = model, objective, params
        self._val_set = spread(val_set, params.evaluated)
        self._runtime, self._parallel = runtime, parallel
        self._store, self._stopwatch, self._on_evaluation = store, stopwatch, on_evaluation
        self.steps = list(draw_steps(train_set, params))
        # after each step
        self._epochs = [examples / len(train_set) for examples in accumulate(map(len, self.steps), initial=0)]
        self._schedule = WarmupCosine(
            peak=params.lr,
            floor=params.lr * params.lr_floor,
            warmup_steps=params.warmup_steps,
            total_steps=len(self.steps),
        )
        model.recompute = params.recompute_activations
        model.dropout = dropout_of(model)
        self._loss_module = objective.module(model)
        self._module = parallel.wrap(model, self._loss_module)
        recorded = runtime.device.type == "cuda" and parallel.mode == "none"
        self._optimizer = make_optimizer(model, params, recorded=recorded)
        self._recorded: RecordedStep[E, B] | None = None
        self.history = History()
        self.best: Snapshot | None = None
        self._saved = time.monotonic()
        self._load()
        if recorded:
            self._recorded = RecordedStep(
                self._loss_module, self._optimizer, self.steps, objective=objective, params=params, runtime=runtime
            )

    def _load(self) -> None:
        progress = self._store.load(self._model, self._optimizer)
        if progress is None:
            return
        self.history = History.restore(progress)
        if self._parallel.is_main:
            log.info("going on after step %d of %d", self.history.step, len(self.steps))
            if self.history.has_best:
                self.best = Snapshot(self._store.load_best(self.history.best.step), keep=True)

    def fit(self) -> History:
        """Train to the end, or until no evaluation is better.

        Raises InstructError where a loss stops being a number, naming the step and its records, and
        KeyboardInterrupt at the end of the step in which Ctrl-C, SIGTERM or SIGHUP came, after the state was saved.
        """
        total, shown = len(self.steps), self._parallel.is_main
        with (
            same_bytes(self._runtime.device),
            interrupt_flag() as interrupted,
            Progress(total, "step", done=self.history.step, shown=shown) as progress,
        ):
            self._saved = time.monotonic()
            if shown:
                self._announce()
            if not self.history.val:
                self.evaluate()
            if self._recorded:
                with self._stopwatch.phase("record"):
                    self._recorded.record(self.steps)
            elif shown and self._runtime.device.type == "cuda":
                log.info("steps of several processes are not recorded as CUDA graphs; each operation is launched")
            try:
                while self.history.step < total and not self.history.stopped_early:
                    point = self.step()
                    progress.add(note=f"loss {point.loss:.3f}, val loss {self.history.val[-1].loss:.3f}")
                    self._after_step(interrupted)
            finally:
                with self._stopwatch.phase("save"):
                    self._store.wait()
        self._stopwatch.flops = self._loss_module.needed_flops
        return self.history

    def _announce(self) -> None:
        """Say what will be done and about how long it takes, if half of the machine's matrix rate is reached."""
        left = self.steps[self.history.step :]
        of_token, of_target = operations(self._model)
        sizes = [self._objective.row_size(examples) for examples in left]
        needed = sum(of_token * tokens + of_target * targets for tokens, targets in sizes)
        seconds = 2 * needed / matmul_peak(self._runtime, 512, 2) / self._parallel.world_size
        log.info(
            "%d steps over %d records, evaluated on %d records every %d steps; %s, %s; about %s",
            len(left), sum(map(len, left)), len(self._val_set), self._params.eval_every, self._runtime.device,
            str(self._runtime.dtype).removeprefix("torch."),
            f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds",
        )  # fmt: skip

    def step(self) -> TrainPoint:
        """Take the next step."""
        params, history = self._params, self.history
        step, examples = history.step + 1, self.steps[history.step]
        lr = self._schedule(history.step)
        # Dropout draws from a seed of the step's own, so that going on needs no random state.
        torch.manual_seed(params.seed + step * self._parallel.world_size + self._parallel.rank)
        with self._stopwatch.phase("train", examples=examples):
            loss, grad_norm = self._take(examples, lr)
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise InstructError(
                f"step {step}: the loss is {loss} and the gradient's norm {grad_norm}; lower {params.section}.lr or "
                f"look at the records {', '.join(example.id for example in examples)}"
            )
        tokens = history.tokens + sum(example.token_count for example in examples)
        point = TrainPoint(
            step=step, epoch=self._epochs[step], tokens=tokens, lr=lr, loss=loss, grad_norm=grad_norm,
            measures=self._loss_module.take_measures(self._parallel.totals),
        )  # fmt: skip
        history.train.append(point)
        return point

    def _take(self, examples: Sequence[E], lr: float) -> tuple[float, float]:
        if self._recorded is None:
            return take_step(
                self._module, self._optimizer, examples, self._objective.to_batch,
                lr=lr, params=self._params, runtime=self._runtime, parallel=self._parallel,
            )  # fmt: skip
        self._recorded.begin(examples, lr)
        if self.history.step + 1 < len(self.steps):
            self._recorded.prepare(self.steps[self.history.step + 1])
        return self._recorded.read()

    def _after_step(self, interrupted: list[float]) -> None:
        """Evaluate and save where it is time, and stop where that was asked for."""
        params, history, step, total = self._params, self.history, self.history.step, len(self.steps)
        if step % params.eval_every == 0 or step == total:
            self.evaluate()
            if params.patience and history.without_better >= params.patience:
                history.stopped_early = step < total
                return
        if step == total:
            return
        stop = self._parallel.any(bool(interrupted))
        if self._parallel.any(self._save_is_due()) or stop:
            self.save()
        if stop:
            with self._stopwatch.phase("save"):
                self._store.wait()
            raise KeyboardInterrupt(
                f"state saved after step {step} of {total}; `dvc repro` goes on from there, and "
                "`git restore metrics && dvc checkout` brings back the results from before"
            )

    def _save_is_due(self) -> bool:
        minutes = self._params.save_minutes
        waited = time.monotonic() - self._saved >= 60 * minutes
        return bool(minutes) and self._parallel.is_main and waited and not self._store.busy

    def save(self) -> None:
        """Copy the state to go on from, for a thread to write."""
        with self._stopwatch.phase("save"):
            best = (self.history.best.step, self.best) if self.best else None
            self._store.save(
                self._model, self._optimizer, asdict(self.history), best, write=self._parallel.is_main
            )  # fmt: skip
        self._saved = time.monotonic()

    def evaluate(self) -> ValPoint:
        """Take the loss on all of val, and keep the weights if it is the best since training began."""
        step = self.history.step
        with self._stopwatch.phase("evaluate"):
            loss = evaluate(
                self._module, self._val_set, self._objective.to_batch, runtime=self._runtime, parallel=self._parallel
            )
            if not math.isfinite(loss):
                raise InstructError(f"step {step}: the loss on val is {loss}; lower {self._params.section}.lr")
            measures = self._loss_module.take_measures(self._parallel.totals)
            point = ValPoint(
                step=step, epoch=self._epochs[step], tokens=self.history.tokens, loss=loss, measures=measures
            )
            better = self.history.add_evaluation(point)
            self._on_evaluation(point)
        if better:
            with self._stopwatch.phase("save"):
                self.best = Snapshot(best_tensors(self._model), keep=self._parallel.is_main)
        return point


def spread(examples: Sequence[E], count: int) -> Sequence[E]:
    """So many of the examples, at even distances; all where `count` is 0 or there are no more."""
    if not 0 < count < len(examples):
        return examples
    return [examples[i * len(examples) // count] for i in range(count)]


def best_tensors(model: Decoder) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint holds: all, or the adapters."""
    return dict(trainable(model) if is_adapted(model) else model.state_dict())


@contextmanager
def interrupt_flag() -> Iterator[list[float]]:
    """A list that Ctrl-C, SIGTERM or SIGHUP fills, so that no step is cut in two; another a second later ends at once.

    Under torchrun one Ctrl-C comes twice: from the terminal, and passed on by torchrun. What is ignored stays so, as
    SIGHUP under nohup.
    """
    came: list[float] = []

    def note(number: int, frame: object) -> None:
        now = time.monotonic()
        if came and now - came[0] > 1:
            raise KeyboardInterrupt
        came.append(now)

    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""What training leaves at its end: checkpoints, metrics and curves."""

import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from instruct.backbones.catalog import Backbone
from instruct.core.errors import InstructError
from instruct.core.files import write_csv, write_json
from instruct.core.inputs import check_inputs
from instruct.core.runtime import Runtime
from instruct.model.checkpoint import Model, save_adapter, save_checkpoint
from instruct.model.lora import is_adapted
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer
from instruct.training.collate import B
from instruct.training.distributed import Parallel
from instruct.training.encode import EncodedExample, count_tokens
from instruct.training.history import History, TrainPoint, ValPoint
from instruct.training.objective import E, Objective
from instruct.training.resume import ResumeStore, remove_parts
from instruct.training.sample import SamplePrompt
from instruct.training.settings import LoopParams
from instruct.training.snapshot import Snapshot
from instruct.training.throughput import Stopwatch
from instruct.training.trainer import Trainer, best_tensors

log = logging.getLogger(__name__)

DIGITS = 4  # of losses: more would differ from one processor to the next


class Outputs(ABC):
    """Shows how a run goes, and writes what it leaves once it is complete."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        template: Template,
        base: Backbone | Path,
        parallel: Parallel,
        store: ResumeStore,
    ) -> None:
        """`base` is what the model was before; says if a stored state cannot be used."""
        self._model, self._tokenizer, self._template, self._base = model, tokenizer, template, base
        self._parallel, self._store = parallel, store
        refusal = store.refusal()
        if refusal and parallel.is_main:
            log.info("%s", refusal)

    @abstractmethod
    def show(self, point: ValPoint) -> None:
        """Print an evaluation."""

    def save(self, weights: Snapshot, folder: Path) -> None:
        """Write weights as a checkpoint."""
        if is_adapted(self._model):
            save_adapter(self._model, self._tokenizer, folder, self._base, weights.tensors(), self._template)
        else:
            save_checkpoint(self._model, self._tokenizer, folder, weights.tensors(), self._template)

    def train(
        self,
        train_set: Sequence[E],
        val_set: Sequence[E],
        objective: Objective[E, B],
        params: LoopParams,
        runtime: Runtime,
        stopwatch: Stopwatch,
    ) -> Trainer[E, B]:
        """Train the model to the end, with each evaluation shown; the trainer, for `finish`."""
        trainer = Trainer(
            self._model,
            train_set,
            val_set,
            objective=objective,
            params=params,
            runtime=runtime,
            parallel=self._parallel,
            store=self._store,
            stopwatch=stopwatch,
            on_evaluation=self.show,
        )
        with self.rescue(trainer):
            trainer.fit()
        return trainer

    @contextmanager
    def rescue(self, trainer: Trainer[Any, Any]) -> Iterator[None]:
        """If training fails inside, write the best weights so far to the resume folder and say so."""
        try:
            yield
        except InstructError as error:
            if not trainer.best or not self._parallel.is_main:
                raise
            self._store.make_room()
            folder = self._store.folder / "best"
            self.save(trainer.best, folder)
            raise InstructError(f"{error}. The best weights so far are in {folder}") from None

    def finish(
        self,
        models: Path,
        metrics: Path,
        curves: Path,
        trainer: Trainer[Any, Any],
        write: Callable[[Path, Path, History], None],
    ) -> None:
        """Write all outputs, metrics and curves by `write`; a run that goes on from the state ends with the same ones.

        Raises InstructError if an input has changed meanwhile.
        """
        history, part = trainer.history, models / ".part"
        best_is_last = history.best.step == history.step
        last = trainer.best if best_is_last else Snapshot(best_tensors(self._model), keep=self._parallel.is_main)
        if not self._parallel.is_main:
            return
        assert trainer.best is not None and last is not None
        self._check_inputs(trainer)
        shutil.rmtree(part, ignore_errors=True)
        self.save(trainer.best, part / "best")
        if best_is_last:
            shutil.copytree(part / "best", part / "last", copy_function=_link_or_copy)
        else:
            self.save(last, part / "last")
        for name in ("best", "last"):
            shutil.rmtree(models / name, ignore_errors=True)
            (part / name).replace(models / name)
        part.rmdir()
        remove_parts(metrics.parent, metrics.name)
        remove_parts(curves)
        write(metrics, curves, history)

    def end(self, trainer: Trainer[Any, Any], metrics: Path) -> None:
        """Leave the state until DVC has recorded `metrics`, or forget it where no DVC will.

        Raises InstructError if an input has changed meanwhile.
        """
        if self._parallel.is_main:
            self._check_inputs(trainer)
            self._store.end(metrics)

    def _check_inputs(self, trainer: Trainer[Any, Any]) -> None:
        try:
            check_inputs()
        except InstructError:
            if self._parallel.mode != "fsdp":  # there every process would have to take part
                trainer.save()
                self._store.wait()
            raise


class TrainOutputs(Outputs):
    """What fine-tuning shows and writes."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        backbone: Backbone,
        parallel: Parallel,
        store: ResumeStore,
        sample: SamplePrompt,
    ) -> None:
        super().__init__(model, tokenizer, sample.template, backbone, parallel, store)
        self._sample = sample

    def show(self, point: ValPoint) -> None:
        """Print an evaluation and what the model answers now."""
        if not self._parallel.is_main:
            return
        shown = self._sample.max_new_tokens and self._parallel.mode != "fsdp"
        sample = f" · {self._sample.answer(self._model, self._tokenizer)}" if shown else ""
        log.info("step %d: val loss %.4f%s", point.step, point.loss, sample)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_results(
    metrics: Path, curves: Path, history: History, fitted: Mapping[str, tuple[Sequence[EncodedExample], int, int]]
) -> None:
    """Write the metrics, and one CSV each for the training and the validation curve.

    `fitted` holds for train and val the examples in use, how many were truncated, how many dropped.
    """
    write_json(metrics, describe_run(history, {part: _count(*counted) for part, counted in fitted.items()}))
    write_curve(curves / "train.csv", history.train)
    write_curve(curves / "val.csv", history.val)


def describe_run(history: History, details: Mapping[str, Any]) -> dict[str, Any]:
    """The losses of a run and where it was best, as tracked metrics hold them.

    DVC's tables pass over lists, so a list holds what explains a run but nobody compares runs by, `details` too.
    """
    return {
        "steps": len(history.train),
        "initial_val_loss": round(history.val[0].loss, DIGITS),
        "best_val_loss": round(history.best.loss, DIGITS),
        "details": [
            {
                "stopped_early": int(history.stopped_early),
                "best_step": history.best.step,
                "last_val_loss": round(history.val[-1].loss, DIGITS),
                "first_train_loss": round(history.train[0].loss, DIGITS),
                "last_train_loss": round(history.train[-1].loss, DIGITS),
                **details,
            }
        ],
    }


def write_curve(path: Path, points: Sequence[TrainPoint | ValPoint]) -> None:
    """Write a line for each of the points, of which there is at least one, with what its objective measured."""
    rows = []
    for point in points:
        values = asdict(point)
        measures = values.pop("measures")
        rows.append({key: _rounded(key, value) for key, value in values.items()} | rounded(measures))
    write_csv(path, list(rows[0]), rows)


def rounded(measures: Mapping[str, float]) -> dict[str, float]:
    """Measures as tracked outputs show them."""
    return {name: round(value, DIGITS) for name, value in measures.items()}


def _count(examples: Sequence[EncodedExample], truncated: int, dropped: int) -> dict[str, int]:
    tokens, response_tokens = count_tokens(examples)
    counts = {
        "records": len(examples),
        "truncated": truncated,
        "dropped": dropped,
        "tokens": tokens,
        "response_tokens": response_tokens,
    }
    turns = sum(example.dropped_turns for example in examples)
    return counts | ({"dropped_turns": turns} if turns else {})


def _rounded(key: str, value: float) -> float:
    if key == "loss":
        return round(value, DIGITS)
    return float(f"{value:.6g}") if isinstance(value, float) else value

"""What training leaves: checkpoints while it runs, and metrics and curves at its end."""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from instruct.backbones.catalog import Backbone
from instruct.core.files import write_csv, write_json
from instruct.model.checkpoint import Model, save_adapter, save_checkpoint
from instruct.model.lora import is_adapted
from instruct.text.tokenizer import Tokenizer
from instruct.training.distributed import Parallel, gather_all
from instruct.training.encode import EncodedExample, count_tokens
from instruct.training.loop import History, Hooks, TrainPoint, ValPoint
from instruct.training.resume import ResumeStore, remove_parts, trainable
from instruct.training.sample import SamplePrompt

log = logging.getLogger(__name__)

DIGITS = 6


class Outputs:
    """Keeps the best weights in the resume folder, which DVC does not clear, until the run is complete."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        backbone: Backbone,
        parallel: Parallel,
        store: ResumeStore,
        sample: SamplePrompt,
    ) -> None:
        """Says if a stored state cannot be used."""
        self._model, self._tokenizer, self._backbone = model, tokenizer, backbone
        self._parallel, self._store, self._sample = parallel, store, sample
        refusal = store.refusal()
        if refusal and parallel.is_main:
            log.info("%s", refusal)

    def hooks(self) -> Hooks:
        """What the loop calls."""
        return Hooks(on_best=self._keep_best, on_evaluation=self._show)

    def _keep_best(self) -> None:
        if self._parallel.is_main:
            self._store.make_room()
        self.save(self._store.best)

    def save(self, folder: Path) -> None:
        """Write the present weights as a checkpoint; with sharded weights every rank takes part, one writes."""
        adapted = is_adapted(self._model)
        weights = trainable(self._model) if adapted else self._model.state_dict()
        state = gather_all(weights, keep=self._parallel.is_main)
        if not self._parallel.is_main:
            return
        if adapted:
            save_adapter(self._model, self._tokenizer, folder, self._backbone, state)
        else:
            save_checkpoint(self._model, self._tokenizer, folder, state)

    def _show(self, point: ValPoint) -> None:
        if not self._parallel.is_main:
            return
        shown = self._sample.max_new_tokens and self._parallel.mode != "fsdp"
        sample = f" · {self._sample.answer(self._model, self._tokenizer)}" if shown else ""
        log.info("step %d: val loss %.4f%s", point.step, point.loss, sample)

    def finish(
        self,
        models: Path,
        metrics: Path,
        curves: Path,
        history: History,
        fitted: Mapping[str, tuple[Sequence[EncodedExample], int, int]],
    ) -> None:
        """Write all outputs, then forget the state; `fitted` holds the examples in use, how many cut and dropped.

        Whenever it is cut off, a run that goes on from the state ends with the same outputs.
        """
        part = models / ".part"
        if self._parallel.is_main:
            shutil.rmtree(part, ignore_errors=True)
        self.save(part / "last")
        if not self._parallel.is_main:
            return
        # A save that was killed leaves a hidden folder.
        hidden = shutil.ignore_patterns(".*")
        shutil.copytree(self._store.best, part / "best", ignore=hidden, copy_function=_link_or_copy)
        for name in ("best", "last"):
            shutil.rmtree(models / name, ignore_errors=True)
            (part / name).replace(models / name)
        part.rmdir()
        remove_parts(metrics.parent, metrics.name)
        remove_parts(curves)
        write_results(metrics, curves, history, fitted)
        self._store.forget()


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
    values: dict[str, Any] = {
        "steps": len(history.train),
        "initial_val_loss": round(history.val[0].loss, DIGITS),
        "best_val_loss": round(history.best.loss, DIGITS),
        "best_step": history.best.step,
        "last_val_loss": round(history.val[-1].loss, DIGITS),
        "first_train_loss": round(history.train[0].loss, DIGITS),
        "last_train_loss": round(history.train[-1].loss, DIGITS),
        "stopped_early": int(history.stopped_early),
    }
    for part, (examples, truncated, dropped) in fitted.items():
        tokens, response_tokens = count_tokens(examples)
        values[part] = {
            "records": len(examples),
            "truncated": truncated,
            "dropped": dropped,
            "tokens": tokens,
            "response_tokens": response_tokens,
        }
    write_json(metrics, values)
    _write_curve(curves / "train.csv", TrainPoint, history.train)
    _write_curve(curves / "val.csv", ValPoint, history.val)


def _write_curve(path: Path, kind: type[TrainPoint] | type[ValPoint], points: Sequence[TrainPoint | ValPoint]) -> None:
    rows = [
        {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in asdict(p).items()}
        for p in points
    ]
    write_csv(path, [field.name for field in fields(kind)], rows)

"""The state of an unfinished run, so that one that was killed goes on and ends with the same bytes.

It lives outside DVC's outputs, which DVC deletes before a stage runs. A fingerprint of parameters, data and code
stamps it; a state with another fingerprint is not used, and stays until this run has something to keep.

A thread writes it while training goes on: the best weights in a file of their own if they are new, then the state,
which names that file, then older best weights go. Cut off anywhere, the state that is there is whole.
"""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from instruct.core.ended import keep_until_recorded, runs_under_dvc
from instruct.core.errors import CheckpointError, InstructError, ParamsError
from instruct.core.fingerprint import Fingerprint
from instruct.model.checkpoint import write_safetensors
from instruct.training.distributed import (
    from_main,
    is_main,
    of_all_ranks,
    scatter_like,
    tensor_from_main,
)
from instruct.training.snapshot import Snapshot

STATE = "state.safetensors"
VERSION = "2"
"""Of the layout of that file."""
PROGRESS = "progress"
"""The tensor in it with the bytes of a JSON, for which the header, 100 MB at most, has no room in a long run."""


class ResumeStore:
    """The folder of a run's state: weights, optimizer, progress, and the best weights so far."""

    def __init__(self, folder: Path, fingerprint: Fingerprint) -> None:
        self.folder, self._fingerprint = folder, fingerprint
        self._going_on = self._has_room = False
        self._writing: Future[None] | None = None

    def make_room(self) -> None:
        """Before this run's first write: remove what another run, or a write that was killed, left in the folder."""
        if self._has_room:
            return
        self._has_room = True
        if not self._going_on:
            self.forget()
        remove_parts(self.folder)

    @property
    def busy(self) -> bool:
        """Whether a state is being written; raises CheckpointError if the write before could not end."""
        if self._writing is not None and self._writing.done():
            self.wait()
        return self._writing is not None

    def wait(self) -> None:
        """Let a state that is being written come to its end; raises CheckpointError if it could not."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Mapping[str, Any],
        best: tuple[int, Snapshot] | None = None,
        *,
        write: bool,
    ) -> None:
        """Replace the stored state by the present one; with sharded weights every rank calls, one has `write`.

        `best` are the step and the weights of the best evaluation so far. The present state is copied before this
        returns, and written by a thread after.
        """
        self.wait()
        present = Snapshot(state_tensors(model, optimizer), keep=write)
        if not write:
            return
        self.make_room()
        state = {"fingerprint": self._fingerprint.parts, "progress": progress, "best": best[0] if best else None}
        pool = ThreadPoolExecutor(1, "save")
        self._writing = pool.submit(self._write, json.dumps(state), present, best)
        pool.shutdown(wait=False)

    def _write(self, state: str, present: Snapshot, best: tuple[int, Snapshot] | None) -> None:
        try:
            if best and not self.best_file(best[0]).exists():
                write_safetensors(self.best_file(best[0]), best[1].tensors())
            stored = torch.frombuffer(bytearray(state.encode()), dtype=torch.uint8)
            write_safetensors(self.folder / STATE, {**present.tensors(), PROGRESS: stored}, {"version": VERSION})
        except InstructError as error:
            raise CheckpointError(f"{error}; the state before it is untouched, run the stage again to go on") from None
        for older in self.folder.glob("best-*.safetensors"):
            if not best or older != self.best_file(best[0]):
                older.unlink()

    def best_file(self, step: int) -> Path:
        """Where the best weights are, if they are those after this step."""
        return self.folder / f"best-{step}.safetensors"

    def refusal(self) -> str:
        """Why the stored state cannot be used, in words; empty where there is none or it fits."""
        return self._look()[1]

    def _look(self) -> tuple[dict[str, Any] | None, str]:
        """The stored progress and best step where it is this run's, else None and why it cannot be used."""
        path = self.folder / STATE
        if not path.exists():
            return None, ""
        try:
            with safe_open(path, framework="pt") as file:
                if file.metadata().get("version") != VERSION:
                    return None, f"{self.folder} holds the state of another version; starting from the beginning"
                stored = json.loads(file.get_tensor(PROGRESS).numpy().tobytes())
                progress, different = dict(stored["progress"]), self._fingerprint.differences(stored["fingerprint"])
            best = stored["best"]
            if best is not None:
                path = self.best_file(int(best))
                with safe_open(path, framework="pt"):
                    pass
        except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            return None, f"{path} is damaged ({error}); starting from the beginning"
        if different:
            what = f"{', '.join(different)} {'differs' if len(different) == 1 else 'differ'}"
            return None, f"{self.folder} holds the state of another run ({what}); starting from the beginning"
        return {"progress": progress, "best": best}, ""

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Restore model and optimizer in place; gives the progress, or None without a state of this run.

        Every rank calls it; rank 0 reads, so that machines need no folder in common. Raises ParamsError where a
        rank's code, data or settings are not those of rank 0.
        """
        self._check_ranks()
        found = from_main(self._look()[0] if is_main() else None)
        if found is None:
            return None
        self._going_on = True
        with ExitStack() as stack, torch.no_grad():
            file = stack.enter_context(safe_open(self.folder / STATE, framework="pt")) if is_main() else None
            stored = from_main(None if file is None else set(file.keys()))

            def read(name: str, shape: torch.Size) -> Tensor:
                return tensor_from_main(None if file is None else file.get_tensor(name).clone(), shape)

            for name, parameter in trainable(model).items():
                parameter.copy_(scatter_like(read(f"model.{name}", parameter.shape), parameter))
                if stored is None or f"exp_avg.{name}" not in stored:
                    continue
                optimizer.state[parameter] = {
                    "step": read(f"step.{name}", torch.Size()).to(parameter.device),
                    "exp_avg": scatter_like(read(f"exp_avg.{name}", parameter.shape), parameter),
                    "exp_avg_sq": scatter_like(read(f"exp_avg_sq.{name}", parameter.shape), parameter),
                }
        return dict(found["progress"])

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The weights after the step of the best evaluation, as the state that was loaded names it."""
        with safe_open(self.best_file(step), framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)

    def _check_ranks(self) -> None:
        parts_of_ranks = of_all_ranks(self._fingerprint.parts)
        for rank, parts in enumerate(parts_of_ranks):
            different = Fingerprint(parts=parts_of_ranks[0]).differences(parts)
            if different:
                raise ParamsError(
                    f"rank {rank} has other {', '.join(different)} than rank 0; give every machine the same commit, "
                    "data and settings (`git status` and `dvc status` on both show what differs)"
                )

    def end(self, output: Path) -> None:
        """Have the state removed once DVC has recorded `output`; at once where no DVC runs this, or no state is."""
        if runs_under_dvc() and (self.folder / STATE).exists():
            keep_until_recorded(self.folder, output)
        else:
            self.forget()

    def forget(self) -> None:
        """Remove the folder, the state first: without its best weights it must not be gone on from."""
        (self.folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_parts(folder: Path, name: str = "") -> None:
    """Remove what a write that was killed left in a folder, of one file or of any."""
    for part in folder.glob(f".{name}*.part"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Trainable weights and AdamW's state by name."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trainable(model).items():
        tensors[f"model.{name}"] = parameter
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value
    return tensors

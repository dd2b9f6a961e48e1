"""Kills a small training run before each single change it makes to the file system, one after the other.

PYTHONPATH=src:tests python every_crash_point.py FOLDER EVERY

Prints JSON, a list with an entry for each point: what was about to happen, whether there was a state to go on from and
whether all outputs were complete, and whether the run that followed ended with the same files as the unbroken one.

A process of its own, with one thread, since it forks and threads would not survive that.
"""

import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from small_training import ALONE, byte_tokenizer, lora_params, make_trainer, open_store, random_examples

from instruct.backbones.catalog import Backbone
from instruct.core.records import Example
from instruct.model.checkpoint import random_model
from instruct.model.gpt2 import GPT2Config
from instruct.model.lora import add_lora
from instruct.text.prompts import TEMPLATES
from instruct.training.outputs import TrainOutputs, write_results
from instruct.training.sample import SamplePrompt

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")
CONFIG = GPT2Config(vocab_size=257, n_positions=64, n_embd=4, n_layer=1, n_head=1, eos_token_id=256)
BACKBONE = Backbone(name="small", family="gpt2", format="random", licence="-", about="-", files=())


def run(folder: Path, adapters: bool) -> None:
    """A run of four steps: the best is the second, states are saved after the first three."""
    model = random_model(CONFIG, seed=1)
    if adapters:
        add_lora(model, lora_params(r=2), seed=0)
    train_set, val_set = random_examples(16, seed=1), random_examples(2, seed=2)
    store = open_store(folder / "models" / "resume", code="1")
    sample = SamplePrompt(Example(id="v", instruction="Say.", input="", output="x"), TEMPLATES["phi3"], 0)
    outputs = TrainOutputs(model, byte_tokenizer(), BACKBONE, ALONE, store, sample)
    trainer = make_trainer(model, store, train_set, val_set, outputs.show, eval_every=1, lr=0.3)
    trainer.fit()
    fitted = {"train": (train_set, 0, 0), "val": (val_set, 0, 0)}
    write = partial(write_results, fitted=fitted)
    outputs.finish(folder / "models/sft", folder / "metrics/train.json", folder / "metrics/curves", trainer, write)
    outputs.end(trainer, folder / "metrics/train.json")


def live(folder: Path, adapters: bool, killed_before: int | None = None) -> tuple[int, str]:
    """One life of the run in a process of its own: its exit status, and the change it was killed before."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        count = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            opens_to_write = (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if (event not in CHANGES and not opens_to_write) or os.devnull in map(str, arguments):
                return
            if count == killed_before:
                os.write(writer, f"{event} {arguments[0]}".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        sys.addaudithook(watch)
        status = 1
        try:
            run(folder, adapters)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reader) as pipe:
        return status, pipe.read()


def files_in(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_bytes().hex() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def try_every_point(folder: Path, every: int, adapters: bool) -> list[dict[str, Any]]:
    run(folder / "unbroken", adapters)  # in this process, which also imports what torch puts off
    expected = files_in(folder / "unbroken")
    found = []
    point = 0
    while True:
        broken = folder / "broken"
        status, change = live(broken, adapters, killed_before=point)
        if not change:
            assert status == 0
            break
        at_kill = files_in(broken)
        status, _ = live(broken, adapters)
        after = files_in(broken)
        found.append(
            {
                "point": point,
                "change": change.replace(str(broken), ""),
                "state": "models/resume/state.safetensors" in at_kill,
                "complete": expected.items() <= at_kill.items(),
                "same": status == 0 and after == expected,
            }
        )
        shutil.rmtree(broken)
        point += every
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, step = Path(sys.argv[1]), int(sys.argv[2])
    print(
        json.dumps(
            {"full": try_every_point(where / "full", step, False), "lora": try_every_point(where / "lora", step, True)}
        )
    )

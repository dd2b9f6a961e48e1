"""People's preferences and corrections, appended to files for training; held-out prompts are refused."""

import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from instruct.core.errors import InstructError
from instruct.core.files import write_atomically
from instruct.core.held_out import HeldOut
from instruct.core.locks import lock
from instruct.core.records import Example, read_examples
from instruct.serving.messages import Said, filter_chat
from instruct.serving.policy import Policy, filter_text
from instruct.serving.problems import Problem
from instruct.serving.requests import Strict, Text
from instruct.serving.systems import System

PREFERENCES, MINE = Path("data/preferences.jsonl"), Path("data/mine.jsonl")
LOCK_S, LOOK_S = 10, 0.05  # a file that another program keeps locked delays no exit for long
HELD_OUT = (Path("data/split/val.json"), Path("data/split/test.json"))


def _filled(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty, and no record may be; write something")
    return value


Written = Annotated[Text, Field(max_length=100_000), AfterValidator(_filled)]


def _whole(reason: str) -> str:
    if reason != "stop":
        raise ValueError(f"is {reason[:40]!r}: a pair would teach the model to end there; send whole answers (stop)")
    return reason


class Answered(Strict):
    """A whole answer, and the system that gave it."""

    system: Text
    text: Written
    finish_reason: Annotated[Text, AfterValidator(_whole)]


class PreferenceRequest(Strict):
    """One answer is better than each of the other answers."""

    instruction: Written
    input: Text = ""
    chosen: Answered
    rejected: Annotated[list[Answered], Field(min_length=1, max_length=16)]
    seed: int
    temperature: Annotated[float, Field(ge=0, le=2)]
    max_tokens: Annotated[int, Field(ge=1)]
    blind: bool = False


class MineRequest(Strict):
    """The answer that a person would have given."""

    instruction: Written
    input: Text = ""
    output: Written


class Feedback:
    """Writes choices to files; `root` is the project's folder."""

    def __init__(self, systems: Mapping[str, System], max_similarity: float, root: Path = Path()) -> None:
        self._systems, self._limit, self._root = systems, max_similarity, root

    def prefer(self, one: PreferenceRequest, policy: Policy | None) -> dict[str, Any]:
        """Append one line per rejected answer."""
        others = [("rejected", other.text) for other in one.rejected]
        _refuse_filtered(policy, one.instruction, one.input, ("chosen", one.chosen.text), *others)
        self._refuse_held_out(one.instruction, one.input)
        lines = [self._pair(one, rejected) for rejected in one.rejected if rejected.text != one.chosen.text]
        if not lines:
            raise Problem(
                "the answers are the same; choose between two different ones", param="rejected", code="same_answers"
            )
        self._append(PREFERENCES, lines)
        return {"file": str(PREFERENCES), "lines": len(lines)}

    def keep(self, one: MineRequest, policy: Policy | None) -> dict[str, Any]:
        """Append a record with the data set's fields."""
        _refuse_filtered(policy, one.instruction, one.input, ("output", one.output))
        self._refuse_held_out(one.instruction, one.input)
        self._append(MINE, [one.model_dump()])
        return {"file": str(MINE), "lines": 1}

    def _pair(self, one: PreferenceRequest, rejected: Answered) -> dict[str, Any]:
        better, worse = self._system(one.chosen.system), self._system(rejected.system)
        return {
            "prompt": better.template.render(one.instruction, one.input),
            "instruction": one.instruction,
            "input": one.input,
            "chosen": one.chosen.text,
            "rejected": rejected.text,
            "chosen_system": better.name,
            "rejected_system": worse.name,
            "chosen_digest": better.digest,
            "rejected_digest": worse.digest,
            "template": better.template_name,
            "seed": one.seed,
            "temperature": one.temperature,
            "max_tokens": one.max_tokens,
            "blind": one.blind,
        }

    def _system(self, name: str) -> System:
        if name not in self._systems:
            raise Problem(f"there is no model {name[:80]!r}", param="system", code="model_not_found", status=404)
        return self._systems[name]

    def _refuse_held_out(self, instruction: str, input: str) -> None:
        """Refuse a prompt that resembles or contains a held-out one: training on it would spoil the measurement."""
        wanted = Example(id="", instruction=instruction, input=input, output="")
        for path in HELD_OUT:
            try:
                known = read_examples(self._root / path)
            except InstructError as error:
                raise Problem(
                    f"{path}: cannot be read, so this prompt may be a held-out one ({error}); restore the file",
                    status=409,
                    code="no_split",
                ) from None
            held_out = HeldOut(known, self._limit)
            if found := held_out.find(wanted):
                why = f"resembles record {found[0].id} of {path} ({found[1]:.0f} of 100)"
            elif record := held_out.wrapped_in(wanted):
                why = f"contains the question of record {record.id} of {path}"
            else:
                continue
            raise Problem(
                f"this prompt {why}: training on it would spoil the measurement",
                param="instruction",
                code="held_out",
                status=409,
            )

    def _append(self, name: Path, lines: list[dict[str, Any]]) -> None:
        path = self._root / name
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            append(path, text.encode())
        except InstructError as error:
            raise Problem(str(error), status=500, code="not_written") from None
        except OSError as error:
            raise Problem(f"{name}: cannot be written ({error.strerror})", status=500, code="not_written") from None


def _refuse_filtered(policy: Policy | None, instruction: str, input: str, *answers: tuple[str, str]) -> None:
    """Refuse what the policy blocks or would change; `answers` are names of fields and their texts."""
    (asked,), rest = filter_chat(policy, [Said(role="user", content=instruction)], input)
    passed = [(name, text, filter_text(policy, text, "answers")[0]) for name, text in answers]
    for name, text, left in [("instruction", instruction, asked.content), ("input", input, rest), *passed]:
        if left != text:
            raise Problem(
                f"serve.policy removes a part of {name}, so nothing is kept; leave that part out",
                param=name,
                code="policy_blocked",
            )


def append(path: Path, text: bytes) -> None:
    """Append whole lines to a file that other processes append to; completes an unfinished last line first.

    If the disk has no room for all of them, the file stays as it was. Raises InstructError if another process keeps
    it locked.
    """
    with _held(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = b"\n" + text
        try:
            while text:
                text = text[file.write(text) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


@contextmanager
def _held(path: Path) -> Iterator[FileIO]:
    """The locked file, first replaced by a copy if DVC's cache shares its content: a write would change that too."""
    while True:
        shared = path.exists() and _is_shared(path.stat())
        with FileIO(path, "rb" if shared else "a+b") as file:
            _lock(file.fileno(), path)
            state = os.fstat(file.fileno())
            if not path.exists() or path.stat().st_ino != state.st_ino:  # replaced or removed while we waited
                continue
            if not _is_shared(state) and file.writable():
                yield file
                return
            file.seek(0)
            content = file.readall()
            write_atomically(path, partial(_fill, content=content))


def _is_shared(state: os.stat_result) -> bool:
    """Whether a file has other names, or is read-only, as links into DVC's cache are."""
    return state.st_nlink > 1 or not state.st_mode & stat.S_IWUSR


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _lock(descriptor: int, path: Path) -> None:
    until = time.monotonic() + LOCK_S
    while True:
        try:
            return lock(descriptor)
        except BlockingIOError:
            if time.monotonic() > until:
                raise InstructError(f"{path}: another program is writing it; try again when it has ended") from None
        time.sleep(LOOK_S)

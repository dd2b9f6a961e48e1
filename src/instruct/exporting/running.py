"""Answers of an export from the program that will run it, in its own process."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from instruct.core.errors import InstructError
from instruct.core.records import Example
from instruct.exporting.chat import messages_of
from instruct.exporting.source import Source
from instruct.text.encoding import encode_prompt

RunnerName = Literal["llamacpp", "graph", "hub"]
EXTRA = "pip install -e '.[export]'"
_LINES = 5  # lines of a program's error output shown to the user
_SLACK = 256  # a program may read a prompt as more tokens than we do


@dataclass(frozen=True, kw_only=True)
class Runner:
    """The program that runs an export: its script, the packages it needs, the file, and its options.

    `rounding` is how far its logits may differ from the checkpoint's because float32 sums run in another order; `how`
    names its arithmetic or its non-default settings.
    """

    script: RunnerName
    needs: tuple[str, ...]
    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    rounding: float = 1e-3
    how: str = ""


@dataclass(frozen=True, kw_only=True)
class Said:
    """One answer: the prompt's tokens as the program read them, the answer's tokens, and whether it ended."""

    id: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    ended: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """All answers, the program, its seconds and its peak memory in bytes."""

    said: tuple[Said, ...]
    runtime: Mapping[str, str]
    seconds: float
    peak_bytes: int
    imported: tuple[str, ...] = ()


def require_packages(needs: Sequence[str]) -> None:
    """Raise InstructError if a package that an export or its check needs is not installed."""
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        raise InstructError(f"{', '.join(missing)}: not installed; run `{EXTRA}`")


def request_of(source: Source, examples: Sequence[Example], max_new_tokens: int, threads: int) -> dict[str, Any]:
    """The request for every program; each uses a prompt's messages, its question or its tokens.

    A chat of several turns or with its own system prompt has no `question`.
    """
    prompts, longest = [], 0
    for one in examples:
        ids = encode_prompt(source.tokenizer, source.template.prompt(one.turns, one.system))
        question = None if one.system or one.history else {"instruction": one.instruction, "input": one.input}
        messages = messages_of(one, source.template)
        prompts.append({"id": one.id, "messages": messages, "question": question, "ids": ids})
        longest = max(longest, len(ids))
    return {
        "prompts": prompts,
        "stop_ids": sorted(source.tokenizer.stop_ids),
        "max_new_tokens": max_new_tokens,
        "threads": threads,
        "context": min(source.model.block_size, longest + max_new_tokens + _SLACK),
    }


def run_export(runner: Runner, request: Mapping[str, Any], scratch: Path | None = None) -> Run:
    """Answer every prompt; raises InstructError with the program's last error lines.

    Request and reply are in a temporary folder in `scratch`, by default in the system's.
    """
    require_packages(runner.needs)
    with TemporaryDirectory(prefix="instruct-export-", dir=scratch) as folder:
        asked, replied = Path(folder) / "request.json", Path(folder) / "reply.json"
        asked.write_text(json.dumps({**request, **runner.options, "path": str(runner.path)}), encoding="utf-8")
        call_program(runner.script, asked, replied)
        done = json.loads(replied.read_text(encoding="utf-8"))
    said = [
        Said(id=one["id"], prompt=tuple(one["prompt"]), tokens=tuple(one["tokens"]), ended=one["ended"])
        for one in done["answers"]
    ]
    return Run(
        said=tuple(said),
        runtime=done["runtime"],
        seconds=done["seconds"],
        peak_bytes=done["peak_bytes"],
        imported=tuple(done.get("imported", ())),
    )


def call_program(script: RunnerName, asked: Path, replied: Path) -> None:
    """Run a program from the folder `runners` in its own process."""
    program = Path(__file__).parent / "runners" / "run.py"
    with (asked.parent / "log").open("w+", encoding="utf-8", errors="replace") as log:
        # -I: the working directory and PYTHONPATH do not change its imports.
        command = [sys.executable, "-I", str(program), script, str(asked), str(replied)]
        status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        log.seek(0)
        lines = log.read().strip().splitlines()
    if status or not replied.is_file():
        raise InstructError(f"{script} cannot run the export: {' | '.join(lines[-_LINES:]) or 'it was killed'}")

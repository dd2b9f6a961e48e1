"""The console blocks of a Markdown page: what to type, what must come out, and where a test runs them.

A block is fenced as `console`. A line that starts with the prompt `$ ` is a command, and the lines below it are what it
prints. `…` stands for any text within a line, beside which two spaces or more stand for any number of them, so that
tables keep their shape; a line of `…` alone stands for any lines. A command without output may print anything. An HTML
comment above a block says what is special about it:

- `<!-- place: small -->`: this block and those after it run elsewhere (see tests/docs/conftest.py for the places)
- `<!-- slow -->`: only `make test-slow` runs it, with all other blocks of the page
- `<!-- fails -->`: its last command must fail, and its error is compared too
- `<!-- not run: reason -->`: no test runs it

`instruct serve` never ends by itself, so it is started on a free port, must give its page, and is ended by Ctrl-C.
`pip install -e '.[…]'` needs a package index; instead, pyproject.toml must know the extras.
"""

import os
import re
import signal
import subprocess
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = re.compile(r"((?:^<!-- .+? -->\n)*)^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE = 60  # seconds in which a program in the background must answer


@dataclass
class Step:
    """One command of a block, and the lines that it must print."""

    prompt: str
    command: str
    expected: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block and what the comments above it say."""

    line: int
    steps: list[Step]
    place: str
    slow: bool
    fails: bool
    not_run: str


def blocks_of(text: str, prompts: str = r"\$", place: str = "clone") -> list[Block]:
    """The console blocks of a page, in order."""
    blocks = []
    for found in BLOCK.finditer(text):
        notes = dict(note.partition(": ")[::2] for note in re.findall(r"^<!-- (.+?) -->$", found[1], re.MULTILINE))
        place = notes.pop("place", place)
        block = Block(
            line=text.count("\n", 0, found.start(2)),
            steps=list(steps_of(found[2], prompts)),
            place=place,
            slow=notes.pop("slow", None) is not None,
            fails=notes.pop("fails", None) is not None,
            not_run=notes.pop("not run", ""),
        )
        assert not notes, f"line {block.line}: unknown comment {notes}"
        blocks.append(block)
    return blocks


def steps_of(block: str, prompts: str) -> Iterator[Step]:
    """The commands of a block; a file that is written in place (`<<'END'`) belongs to its command."""
    step, end = None, None
    for line in block.splitlines():
        if step and end:
            step.command += f"\n{line}"
            end = None if line == end else end
        elif found := re.fullmatch(rf"({prompts}) (.+)", line):
            if step:
                yield step
            step = Step(found[1], found[2])
            end = (re.findall(r" <<'(\w+)'", line) or [None])[0]
        else:
            assert step, f"a block starts with output: {line}"
            step.expected.append(line)
    if step:
        yield step


def matches(expected: list[str], printed: str) -> bool:
    """Whether a text is the expected lines, with `…` as any text within a line or as any lines."""
    parts = ["(?:.*\n)*?" if line == "…" else f"{_pattern(line)}\n" for line in expected]
    lines = "".join(f"{line.rstrip()}\n" for line in printed.rstrip().splitlines())
    return re.fullmatch("".join(parts), lines) is not None


def _pattern(line: str) -> str:
    if "…" not in line:
        return re.escape(line)
    return re.sub(r"(?:\\ ){2,}", " +", ".*".join(map(re.escape, line.split("…"))))


class Session:
    """Runs blocks in a folder and ends what they left in the background."""

    def __init__(self, folder: Path, **environment: str):
        self.folder, self.environment = folder, {**os.environ, "COLUMNS": "80", **environment}
        self.waiting: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.waiting:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)

    def follow(self, block: Block) -> None:
        """Run a block; what it prints must be what the page shows."""
        for step in block.steps:
            if step.command.endswith(" &"):
                self._start(step.command.removesuffix(" &"))
            elif re.match(r"instruct serve( |$)", step.command):
                self._serve(step.command.partition(" #")[0])
            elif extras := re.match(r"pip install -e '\.\[([\w,]+)\]'", step.command):
                known = tomllib.loads((self.folder / "pyproject.toml").read_text("utf-8"))["project"]
                assert set(extras[1].split(",")) <= set(known["optional-dependencies"]), step.command
            else:
                self._check(block, step, fails=block.fails and step is block.steps[-1])

    def _check(self, block: Block, step: Step, *, fails: bool) -> None:
        done, end = self._run(step.command), time.monotonic() + PATIENCE
        while self.waiting and bool(done.returncode) != fails and time.monotonic() < end:
            time.sleep(0.5)
            done = self._run(step.command)
        shown = f"line {block.line}: {step.command}\nexit status {done.returncode}\n{done.stdout}"
        assert bool(done.returncode) == fails, shown
        assert not step.expected or matches(step.expected, done.stdout), shown

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, text=True, timeout=1200,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _serve(self, command: str) -> None:
        with subprocess.Popen(
            ["bash", "-c", f"exec {command} --port 0"], cwd=self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            assert process.stdout
            said = ""
            while not (found := re.search(r"http://[\d.]+:\d+", said)):
                line = process.stdout.readline()
                assert line, f"{command}\n{said}"
                said += line
            with urllib.request.urlopen(found[0], timeout=PATIENCE) as page:
                assert page.status == 200
            process.send_signal(signal.SIGINT)
            process.stdout.read()
        assert process.returncode == 0, command

    def _start(self, command: str) -> None:
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.waiting.append(process)

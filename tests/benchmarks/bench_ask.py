"""Times `instruct ask` from the start of its process to the first character, and to its end.

python tests/benchmarks/bench_ask.py

Each start is a new process. The files are in the page cache, as after training: an unmeasured start reads them.
`first` has an empty cache folder each time, as the first question after training, and checks the tokenizer;
`again` finds it checked. Run it in a folder with models/sft/best, with nothing beside it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
import outcome

COMMAND = [sys.executable, "-c", "from instruct.cli import run; run()", "ask"]
KINDS = ("first", "again")
MEASURES = ("first_s", "end_s")


def main() -> None:
    """All starts, the two kinds in turn."""
    options = read_options()
    rounds, command = list[dict[str, Any]](), [*COMMAND, options.question]
    with TemporaryDirectory() as warm:
        one_start(command, warm)
        for turn in range(options.rounds):
            for kind in KINDS:
                with TemporaryDirectory() as empty:
                    told = one_start(command, warm if kind == "again" else empty)
                rounds.append({"kind": kind, "round": turn, **told})
                harness.say(f"{kind:5} first character {told['first_s']:.2f} s, end {told['end_s']:.2f} s")
    summary = summarise(rounds)
    print_table(summary)
    outcome.write_summary(summary, options.json)


def read_options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", default="What is the capital of France?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def one_start(command: Sequence[str], cache: str) -> dict[str, Any]:
    """Seconds from the start of a process to the first character that it prints and to its end, and what it printed."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, bufsize=0) as process:
        assert process.stdout is not None
        beginning = process.stdout.read(1)
        first = time.perf_counter() - started
        answer = beginning + b"".join(process.stdout)
        status = process.wait()
        end = time.perf_counter() - started
    assert status == 0 and answer.strip(), f"exit status {status} after {answer!r}"
    return {"first_s": first, "end_s": end, "answer": answer.decode()}


def summarise(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The machine, and for each kind of start the median and the spread of both times."""
    return {
        "machine": outcome.machine(),
        "starts": {kind: _times([one for one in rounds if one["kind"] == kind]) for kind in KINDS},
        "rounds": list(rounds),
    }


def _times(rounds: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """By measure: median, fastest, slowest."""
    found = {name: [one[name] for one in rounds] for name in MEASURES}
    return {name: [statistics.median(values), min(values), max(values)] for name, values in found.items()}


def print_table(summary: Mapping[str, Any]) -> None:
    """The machine, and a table in Markdown."""
    print(outcome.describe_machine(summary["machine"]))
    print("| start | first character, median s | from to | end, median s | from to |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind, times in summary["starts"].items():
        cells = [f"{median:.2f} | {low:.2f} to {high:.2f}" for median, low, high in map(times.get, MEASURES)]
        print(f"| {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

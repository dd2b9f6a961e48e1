"""Times asking a judge: throughput against what the server allows, overhead, a warm cache, memory.

The judge is a local server in a process of its own that answers each request after a set latency, so many at once.
`make bench-judge` prints the tables; `--json FILE` writes them too.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import outcome

SERVER = Path(__file__).parents[1] / "servers" / "fault_server.py"
SCRIPT = Path(__file__).with_name("judge_contestants.py")


def main() -> None:
    """Measure everything, interleaved where there are rivals."""
    options = read_options()
    with (
        served(options.latency, options.slots) as slow,
        served(0.0, options.slots) as fast,
        tempfile.TemporaryDirectory() as folder,
    ):
        task = Path(folder) / "task.json"
        task.write_text(json.dumps({"slow": slow, "fast": fast}), encoding="utf-8")
        summary = race(options, task)
        summary |= measure_ours(options, task)
    print_results(summary, options)
    outcome.write_summary(summary, options.json)


def race(options: argparse.Namespace, task: Path) -> dict[str, Any]:
    """Ours and its rivals with the most workers, in turn."""
    workers = options.workers[-1]
    count = verdicts(options, workers)
    run = {"mode": "cold", "count": count, "workers": workers, "start": 10_000_000}
    tenth = {**run, "count": max(1, count // 100)}
    warm_up = {**run, "count": workers}
    python = Path(sys.executable)
    contestants = {
        harness.OURS: harness.Contestant(python=python, warm_up=warm_up, run=run),
        "requests": harness.Contestant(python=python, warm_up=warm_up, run=run),
        "one-at-a-time": harness.Contestant(
            python=python, warm_up={**warm_up, "count": 1}, run=tenth, scale=count / tenth["count"]
        ),
    }
    started = harness.Race(contestants, harness.chosen(options.only, contestants), SCRIPT, task, threads=1)
    try:
        measured = started.measure(options.repeats)
    finally:
        started.close()
    task_of = {"latency_s": options.latency, "slots": options.slots, "verdicts": count, "workers": workers}
    return {"task": task_of, **outcome.summarise(measured, started.skipped, records=count, tokens=0)}


def measure_ours(options: argparse.Namespace, task: Path) -> dict[str, Any]:
    """Throughput by workers, overhead, warm cache and memory; each in a process of its own where memory counts."""
    worker = harness.Worker(harness.OURS, SCRIPT, task, python=Path(sys.executable), threads=1)
    rows, start = [], 0
    for workers in options.workers:
        count, seconds = verdicts(options, workers), []
        for _ in range(options.repeats):
            start += count
            seconds.append(worker.run(mode="cold", count=count, start=start, workers=workers)["seconds"])
        allowed = min(workers, options.slots) / options.latency
        rate = count / statistics.median(seconds)
        rows.append({"workers": workers, "verdicts_per_s": rate, "allowed_per_s": allowed, "share": rate / allowed})
        harness.say(f"{workers} workers: {rate:.1f} verdicts/s, {rate / allowed:.3f} of what the server allows")
    quick = [
        worker.run(mode="cold", count=2000, start=20_000_000 + 2000 * i, server="fast") for i in range(options.repeats)
    ]
    warm = {
        str(count): statistics.median(worker.run(mode="warm", count=count)["seconds"] for _ in range(options.repeats))
        for count in options.warm
    }
    worker.close()
    return {
        "throughput": rows,
        "overhead": {
            "wall_ms": statistics.median(run["seconds"] for run in quick) / 2000 * 1000,
            "cpu_ms": statistics.median(run["cpu_s"] for run in quick) / 2000 * 1000,
        },
        "warm_cache_s": warm,
        "peak_rss_mb": {str(count): peak(task, count) for count in (1, options.memory)},
    }


def peak(task: Path, count: int) -> float:
    """The most memory of a process that asks for so many verdicts."""
    worker = harness.Worker(harness.OURS, SCRIPT, task, python=Path(sys.executable), threads=1)
    try:
        return float(worker.run(mode="memory", count=count, workers=4)["peak_rss_mb"])
    finally:
        worker.close()


def verdicts(options: argparse.Namespace, workers: int) -> int:
    """As many as the server answers in the time of one run."""
    return max(workers, round(options.seconds * min(workers, options.slots) / options.latency))


@contextmanager
def served(latency: float, slots: int) -> Iterator[str]:
    """The address of a server with this latency and so many slots."""
    process = subprocess.Popen([sys.executable, SERVER, str(latency), str(slots)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def print_results(summary: dict[str, Any], options: argparse.Namespace) -> None:
    """All results as tables in Markdown."""
    print(f"\nlatency {options.latency * 1000:.0f} ms, {options.slots} slots, median of {options.repeats}\n")
    print("| workers | verdicts/s | server allows | share |\n| ---: | ---: | ---: | ---: |")
    for row in summary["throughput"]:
        print(f"| {row['workers']} | {row['verdicts_per_s']:.1f} | {row['allowed_per_s']:.0f} | {row['share']:.3f} |")
    print(f"\n{summary['task']['verdicts']} verdicts with {summary['task']['workers']} workers:\n")
    outcome.print_table(summary, {})
    overhead, peaks = summary["overhead"], list(summary["peak_rss_mb"].items())
    print(
        f"\noverhead per verdict: {overhead['cpu_ms']:.2f} ms of CPU ({overhead['wall_ms']:.2f} ms with the server's)"
    )
    for count, seconds in summary["warm_cache_s"].items():
        print(f"warm cache, {count} verdicts: {seconds:.3f} s")
    print("peak memory: " + ", ".join(f"{mb:.0f} MB for {count} verdicts" for count, mb in peaks))


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds that the server takes for an answer")
    parser.add_argument("--slots", type=int, default=32, help="answers that the server works on at once")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=3.0, help="how long the server is busy in one run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", type=int, nargs="+", default=[110, 10_000], help="verdicts from a warm cache")
    parser.add_argument("--memory", type=int, default=100_000, help="verdicts of the measurement of memory")
    parser.add_argument("--only", default="", metavar="NAMES", help="contestants beside ours, with commas")
    return parser.parse_args()


if __name__ == "__main__":
    main()

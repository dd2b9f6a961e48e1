"""All checks that need a GPU, one after the other: a table at the end, and JSON in a folder.

    bash tests/gpu/run.sh OUTDIR                          on a machine with a GPU; at most eight minutes
    bash tests/gpu/run.sh OUTDIR --parts tests,answers
    bash tests/gpu/run.sh OUTDIR --device cpu --shape tiny          to see that this script works

Each part has its own budget of seconds. A part that fails or runs out of time shows its last lines, and the next one
runs. OUTDIR gets results.json, table.md and log.txt. Nothing here reaches a network.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tests" / "benchmarks"
LAST_LINES = 12
TESTS = ("tests/training", "tests/generation", "tests/model", "tests/preference")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A command that may take so many seconds; `rows` makes lines of the table of the JSON that it writes."""

    name: str
    command: Sequence[str | Path]
    seconds: float
    rows: Callable[[dict[str, Any]], list[str]]


def main() -> None:
    options = parse_arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    results: dict[str, Any] = {}
    with TemporaryDirectory(prefix="instruct-gpu-") as folder, (options.out / "log.txt").open("wb") as log:
        for part in parts_of(options, Path(folder)):
            left = deadline - time.monotonic()
            results[part.name] = run_part(part, min(part.seconds, left), Path(folder) / f"{part.name}.json", log)
            write(options.out, results, options)
    print((options.out / "table.md").read_text(encoding="utf-8"))
    sys.exit(any(not result["ok"] for result in results.values()))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=("gpt2-355m", "gpt2-124m", "tiny"), default="gpt2-355m")
    parser.add_argument("--parts", default="", help="names, with commas; all by default")
    parser.add_argument("--only", default="", help="contestants of `train` beside ours, with commas")
    parser.add_argument("--seconds", type=float, default=460, help="of all parts together")
    parser.add_argument("--records", type=int, default=935)
    return parser.parse_args()


def parts_of(options: argparse.Namespace, folder: Path) -> list[Part]:
    """The parts that were asked for, in order of what matters most."""
    tiny = options.shape == "tiny"
    python, device = sys.executable, ["--device", options.device]
    shape, threads = [*device, "--shape", options.shape], ["--threads", str(min(8, os.cpu_count() or 1))]

    def script(name: str, result: str, *arguments: str) -> list[str | Path]:
        return [python, BENCHMARKS / name, *arguments, "--json", folder / f"{result}.json"]

    pytest = [
        python,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "-o",
        "filterwarnings=default",
        "-m",
        "gpu",
        "-v",
        "--tb=short",
    ]
    if options.device == "cpu":
        pytest.append("--collect-only")
    training = ["--only", options.only or "ours-fp32,transformers,trl,trl-packed", *threads]
    preferring = ["--steps", "16", "--repeats", "2", "--only", "trl-precomputed,ours-launched", *threads]
    if tiny:
        preferring = ["--steps", "2", "--repeats", "1", "--batch", "2", "--only", "ours-padded"]
        training = ["--only", "transformers,trl", "--batch", "2", "--steps", "2", "--repeats", "2"]
    answers = ["--only", "ours-fp32,transformers-32,transformers-all", *threads]
    if tiny:
        answers = ["--only", "transformers-all", "--prompts", "3", "--new-tokens", "4", "--repeats", "2"]
    stage = [python, Path(__file__).with_name("stage.py")]
    pairs = ["--pairs", "6" if tiny else "400"]
    parts = [
        Part(name="tests", command=[*pytest, *TESTS], seconds=150, rows=lambda _: []),
        Part(
            name="train",
            command=script(
                "bench_train.py", "train", *shape, *([] if tiny else ["--steps", "32", "--repeats", "2"]), *training
            ),
            seconds=150,
            rows=training_rows,
        ),
        Part(
            name="stage",
            command=[*stage, folder / "stage.json", *shape, "--records", str(options.records)],
            seconds=130,
            rows=stage_rows,
        ),
        Part(
            name="answers",
            command=script("bench_generate.py", "answers", *shape, *answers),
            seconds=90,
            rows=answer_rows,
        ),
        Part(
            name="prefer",
            command=script("bench_prefer.py", "prefer", *shape, *preferring),
            seconds=90,
            rows=training_rows,
        ),
        Part(
            name="prefer-stage",
            command=[*stage, folder / "prefer-stage.json", *shape, *pairs],
            seconds=90,
            rows=stage_rows,
        ),
    ]
    if not tiny:
        large = ["--shape", "gpt2-1558m", "--batch", "32", "--steps", "6", "--repeats", "2", "--only", "trl", *threads]
        for name, more in (("train-1558m", []), ("train-1558m-lora", ["--lora", "16"])):
            command = script("bench_train.py", name, *device, *large, *more)
            parts.append(Part(name=name, command=command, seconds=90, rows=training_rows))
    chosen = [name for name in options.parts.split(",") if name]
    unknown = set(chosen) - {part.name for part in parts}
    if unknown:
        raise SystemExit(f"--parts: there is no {min(unknown)}; there are {', '.join(part.name for part in parts)}")
    return [part for part in parts if not chosen or part.name in chosen]


def run_part(part: Part, seconds: float, result: Path, log: Any) -> dict[str, Any]:
    """Run one part within so many seconds: whether it worked, how long it took, its last lines and its JSON."""
    if seconds < 5:
        return {"ok": False, "seconds": 0.0, "tail": ["no time was left"], "found": None, "rows": []}
    print(f"== {part.name} (at most {seconds:.0f} s)", flush=True)
    started = time.monotonic()
    output, why = run_command(part.command, seconds)
    took = time.monotonic() - started
    log.write(f"== {part.name}\n".encode() + output + b"\n")
    log.flush()
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    tail = [*lines[-LAST_LINES:], *([why] if why else [])]
    print("\n".join(f"   {line[:300]}" for line in (tail if why else tail[-3:])), flush=True)
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    rows = try_rows(part, found) if found else []
    return {"ok": not why, "seconds": round(took, 1), "tail": tail, "found": found, "rows": rows}


def run_command(command: Sequence[str | Path], seconds: float) -> tuple[bytes, str]:
    """What a command printed, and why it did not work, or nothing; after `seconds` it and its children are ended."""
    with TemporaryDirectory(prefix="instruct-gpu-") as folder:
        path = Path(folder) / "output"
        with path.open("wb") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(timeout=seconds)
                why = f"ended with exit status {code}" if code else ""
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                why = f"ended after its {seconds:.0f} s"
        return path.read_bytes(), why


def try_rows(part: Part, found: dict[str, Any]) -> list[str]:
    """The part's lines of the table; a file that lacks something is no reason to lose the other parts."""
    try:
        return part.rows(found)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        return [f"| {part.name} | results.json has it, but not as this table wants it ({error!r}) | | | | |"]


def training_rows(found: dict[str, Any]) -> list[str]:
    return race_rows(found, "ms a step", 1000 / found["steps"])


def answer_rows(found: dict[str, Any]) -> list[str]:
    return race_rows(found, "s for all answers", 1.0)


def race_rows(found: dict[str, Any], unit: str, scale: float) -> list[str]:
    """One line a contestant: its median with the spread, how busy the GPU was, and how many times ours is faster."""
    rows = []
    for name, one in found["contestants"].items():
        low, median, high = (one[key] * scale for key in ("min_s", "median_s", "max_s"))
        busy = found.get("busy_s", {}).get(name)
        ratio = found["ratios"].get(name)
        cells = [
            name, f"{median:.4g} {unit}", f"{low:.4g} to {high:.4g}", f"{busy / one['median_s']:.0%}" if busy else "",
            f"{ratio:.2f} x" if ratio else found["withheld"].get(name, "")[:60], f"{one['peak_gpu_mb']:.0f} MB",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return rows + [f"| {name} | skipped: {why[:150]} | | | | |" for name, why in found["skipped"].items()
                   if why != "not asked for"]  # fmt: skip


def stage_rows(found: dict[str, Any]) -> list[str]:
    """One line a run of a stage: its seconds, its phases, and whether a second run gave the same bytes."""
    return [
        f"| {run['name']} | {run['seconds']:.1f} s in all | {run['phases']} | | {run['note']} | |"
        for run in found["runs"]
    ]


def write(out: Path, results: dict[str, Any], options: argparse.Namespace) -> None:
    """Everything so far; a run that is cut off has lost one part only."""
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    lines = [f"{options.shape} on {options.device}", "", "| part | measured | spread | GPU busy | ours is | peak |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, result in results.items():
        lines.append(f"| **{name}** | {'ok' if result['ok'] else 'FAILED'}, {result['seconds']:.0f} s | | | | |")
        lines += result["rows"]
        if name == "tests" or not result["ok"]:
            lines.append(f"| | {result['tail'][-1][:200] if result['tail'] else ''} | | | | |")
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

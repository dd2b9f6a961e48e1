"""Times training: ours against transformers, TRL and the book chapter's own loop, interleaved on the same records.

    python tests/benchmarks/bench_train.py --json FILE --steps 8 --repeats 5 --shape gpt2-124m

A run is `--steps` optimizer steps from raw token ids on: collation, forward, backward and update are in its time.
"""

import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
from harness import OTHER_PYTHON, OURS, Contestant, Measured, Race

WORKERS = Path(__file__).with_name("train_contestants.py")


def main() -> None:
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    steps = {"warm_up": {"steps": 1}, "run": {"steps": options.steps}}
    here, there = Path(sys.executable), OTHER_PYTHON
    contestants = {
        "ours": Contestant(python=here, **steps),
        "ours-padded": Contestant(python=here, **steps),
        "transformers": Contestant(python=here, **steps),
        "trl": Contestant(python=there, **steps),
        "trl-packed": Contestant(python=there, **steps),
        "chapter": Contestant(python=here, **steps, why_not=harness.why_no_chapter(options.chapter, options.shape)),
    }
    only = harness.chosen(options.only, contestants)
    with TemporaryDirectory(prefix="bench-train-") as folder:
        records = make_task(Path(folder), options)
        race = Race(contestants, only, WORKERS, Path(folder) / "task.json", options.threads)
        try:
            measured = race.measure(options.repeats)
        finally:
            race.close()
    tokens = sum(len(record["ids"]) for record in records)
    summary = harness.summarise(measured, race.skipped, records=len(records), tokens=tokens)
    print(
        f"{options.shape}, fp32, {options.threads} threads; a run is {options.steps} steps of {options.batch} records, "
        f"{tokens} tokens in all, {options.repeats} runs each in turn"
    )
    losses = {name: f"{result.warm_up['loss']:.4f}" for name, result in measured.items()}
    harness.print_table(summary, {"first loss": losses})
    print("(the chapter's loss is of prompts too, from weights of its own; trl-packed has other records in a step)")
    print(describe_operations(measured[OURS], options.steps))
    harness.write_summary(summary, options.json)


def make_task(folder: Path, options: Any) -> list[dict[str, Any]]:
    """Write the checkpoint and the task that workers read; gives the encoded records in their order."""
    from instruct.text.prompts import TEMPLATES
    from instruct.training.encode import encode_example

    tokenizer = harness.save_model(options.shape, folder / "model")
    template = TEMPLATES["alpaca"]
    records = []
    for example in harness.draw_records(options.steps * options.batch):
        encoded = encode_example(example, template, tokenizer)
        prompt = template.render(example.instruction, example.input)
        records.append(
            {**asdict(example), "prompt": prompt, "ids": encoded.ids, "prompt_length": encoded.prompt_length}
        )
    task = {
        "model": str(folder / "model"), "work": str(folder), "chapter": str(options.chapter), "records": records,
        "batch": options.batch, "threads": options.threads, "lr": 5e-5, "weight_decay": 0.1,
    }  # fmt: skip
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    return records


def describe_operations(measured: Measured, steps: int) -> str:
    """How much of what the machine can do in matrix products went into operations that training needs."""
    flops = measured.runs[0]["flops"]
    peak = statistics.median(run["matmul_peak"] for run in measured.runs)
    share = statistics.median(run["flops"] / run["seconds"] / run["matmul_peak"] for run in measured.runs)
    return (
        f"ours: {share:.0%} of the measured matmul peak ({peak / 1e9:.0f} Gflop/s, measured before each run) over "
        f"{flops / steps / 1e9:.0f} Gflop that a step needs; attention's own products are not counted"
    )


if __name__ == "__main__":
    main()

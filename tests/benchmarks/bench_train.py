"""Times training: ours against transformers, TRL and the book chapter's own loop, interleaved on the same records.

    python tests/benchmarks/bench_train.py --json FILE --steps 8 --repeats 5 --shape gpt2-124m
    python tests/benchmarks/bench_train.py --device cuda --shape gpt2-355m --steps 32 --repeats 3

A run is `--steps` optimizer steps from raw token ids on: collation, forward, backward and update are in its time.
On a CPU everyone computes in fp32; on a GPU in bf16 with weights in fp32, and ours in fp32 too. There the warm-up is
a whole run, and one more run is profiled to see for which share of the time the GPU computes.
"""

import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
import outcome
from harness import OURS, Contestant, Measured, Race

WORKERS = Path(__file__).with_name("train_contestants.py")


def main() -> None:
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="everyone trains adapters of this rank")
    options = parser.parse_args()
    contestants = who_takes_part(options)
    only = harness.chosen(options.only, contestants)
    with TemporaryDirectory(prefix="bench-train-") as folder:
        records = make_task(Path(folder), options)
        tokens = sum(len(record["ids"]) for record in records)
        task = Path(folder) / "task.json"
        race = Race(contestants, only, WORKERS, task, options.threads, options.device)
        try:

            def keep(measured: dict[str, Measured], busy: dict[str, float]) -> dict[str, Any]:
                """Write what there is, so that a benchmark that is cut off has lost the rest only."""
                summary = outcome.summarise(measured, race.skipped, records=len(records), tokens=tokens)
                summary |= {"steps": options.steps, "busy_s": busy}
                outcome.write_summary(summary, options.json)
                return summary

            measured = race.measure(options.repeats, lambda so_far: keep(so_far, {}) and None)
            busy = race.measure_busy() if options.device == "cuda" else {}
        finally:
            race.close()
    summary = keep(measured, busy)
    precision = "bf16 (ours-fp32 apart)" if options.device == "cuda" else "fp32"
    print(
        f"{options.shape}, {precision}, {options.device}, {options.threads} threads; a run is {options.steps} steps of "
        f"{options.batch} records, {tokens} tokens in all, {options.repeats} runs each in turn"
    )
    outcome.print_table(summary, outcome.training_columns(summary, measured))
    print("(the chapter's loss is of prompts too, from weights of its own; trl-packed has other records in a step)")
    if options.device == "cpu":
        print(describe_operations(measured[OURS], options.steps))


def who_takes_part(options: Any) -> dict[str, Contestant]:
    """The contestants on this device; those that cannot take part with the reason."""
    # On a GPU some prepare each length of batch at its first use.
    first = options.steps if options.device == "cuda" else 1
    steps = {"warm_up": {"steps": first}, "run": {"steps": options.steps}}
    here, there = Path(sys.executable), harness.python_with("trl")
    on_gpu = "" if options.device == "cuda" else "takes part with --device cuda"
    no_lora = "trains all weights" if options.lora else ""
    chapter = harness.why_no_chapter(options.chapter, options.shape)
    return {
        "ours": Contestant(python=here, **steps),
        "ours-fp32": Contestant(python=here, **steps, why_not=on_gpu),
        "ours-padded": Contestant(python=here, **steps),
        "transformers": Contestant(python=here, **steps, why_not=no_lora),
        "trl": Contestant(python=there, **steps),
        "trl-packed": Contestant(python=there, **steps),
        "chapter": Contestant(python=here, **steps, why_not=chapter or no_lora),
    }


def make_task(folder: Path, options: Any) -> list[dict[str, Any]]:
    """Write the checkpoint and the task that workers read; gives the encoded records in their order."""
    from instruct.text.prompts import TEMPLATES
    from instruct.training.encode import encode_example

    tokenizer = harness.save_model(options.shape, folder / "model", options.device)
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
        "batch": options.batch, "threads": options.threads, "lr": 5e-5, "weight_decay": 0.1, "lora": options.lora,
        "device": options.device, "precision": "bf16" if options.device == "cuda" else "fp32",
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

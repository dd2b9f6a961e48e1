"""Times preference tuning: ours against ours padded and TRL's DPOTrainer, interleaved on the same pairs.

    python tests/benchmarks/bench_prefer.py --json FILE --steps 4 --repeats 5 --shape gpt2-124m
    python tests/benchmarks/bench_prefer.py --device cuda --shape gpt2-355m --steps 16 --repeats 3

A run is `--steps` optimizer steps of `--batch` pairs: collation, forward, backward and update are in its time. The
reference's log-probs are made before, but for `trl`, which computes them in each step from a second model in memory.
The chosen answer of a pair is a record's own, the rejected one that of another record, so that a pair shares its
prompt and nothing else. On a CPU everyone computes in fp32; on a GPU in bf16 with weights in fp32. There
`ours-launched` takes our steps operation by operation, not recorded, and one more run of each is profiled to see for
which share of the time the GPU computes.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
import outcome
from harness import Contestant, Measured, Race

WORKERS = Path(__file__).with_name("prefer_contestants.py")


def main() -> None:
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="pairs")
    options = parser.parse_args()
    contestants = who_takes_part(options)
    only = harness.chosen(options.only, contestants)
    with TemporaryDirectory(prefix="bench-prefer-") as folder:
        pairs = make_task(Path(folder), options)
        tokens = sum(len(ids) for pair in pairs for ids in (pair["chosen_ids"], pair["rejected_ids"]))
        race = Race(contestants, only, WORKERS, Path(folder) / "task.json", options.threads, options.device)
        try:

            def keep(measured: dict[str, Measured], busy: dict[str, float]) -> dict[str, Any]:
                """Write what there is, so that a benchmark that is cut off has lost the rest only."""
                summary = outcome.summarise(measured, race.skipped, records=len(pairs), tokens=tokens)
                summary |= {"steps": options.steps, "busy_s": busy}
                outcome.write_summary(summary, options.json)
                return summary

            measured = race.measure(options.repeats, lambda so_far: keep(so_far, {}) and None)
            busy = race.measure_busy() if options.device == "cuda" else {}
        finally:
            race.close()
    summary = keep(measured, busy)
    precision = "bf16" if options.device == "cuda" else "fp32"
    print(
        f"{options.shape}, {precision}, {options.device}, {options.threads} threads; a run is {options.steps} steps of "
        f"{options.batch} pairs (the records of the table), {tokens} tokens in all, {options.repeats} runs each in turn"
    )
    outcome.print_table(summary, outcome.training_columns(summary, measured))


def who_takes_part(options: Any) -> dict[str, Contestant]:
    """The contestants on this device."""
    first = options.steps if options.device == "cuda" else 1  # on a GPU some prepare each length of batch
    steps = {"warm_up": {"steps": first}, "run": {"steps": options.steps}}
    here, there = Path(sys.executable), harness.python_with("trl")
    on_gpu = "" if options.device == "cuda" else "takes part with --device cuda"
    return {
        "ours": Contestant(python=here, **steps),
        "ours-launched": Contestant(python=here, **steps, why_not=on_gpu),
        "ours-padded": Contestant(python=here, **steps),
        "trl": Contestant(python=there, **steps),
        "trl-precomputed": Contestant(python=there, **steps),
    }


def make_task(folder: Path, options: Any) -> list[dict[str, Any]]:
    """Write the checkpoint and the task that workers read; gives the encoded pairs in their order."""
    from instruct.core.pairs import Pair
    from instruct.preference.encode import encode_pair
    from instruct.text.prompts import TEMPLATES

    tokenizer = harness.save_model(options.shape, folder / "model", options.device)
    template = TEMPLATES["alpaca"]
    examples = harness.draw_records(options.steps * options.batch)
    pairs = []
    for i, example in enumerate(examples):
        id_, other = f"{i}", examples[(i + 1) % len(examples)].output
        one = Pair(id=id_, instruction=example.instruction, input=example.input, output=example.output, rejected=other)
        encoded = encode_pair(one, template, tokenizer)
        pairs.append(
            {
                "id": id_, "prompt": template.render(one.instruction, one.input), "chosen": one.output,
                "rejected": other, "chosen_ids": encoded.chosen.ids, "rejected_ids": encoded.rejected.ids,
                "prompt_length": encoded.chosen.prompt_length,
            }
        )  # fmt: skip
    task = {
        "model": str(folder / "model"), "work": str(folder), "records": pairs, "batch": options.batch,
        "threads": options.threads, "lr": 5e-6, "weight_decay": 0.0, "beta": 0.1, "device": options.device,
        "precision": "bf16" if options.device == "cuda" else "fp32",
    }  # fmt: skip
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    return pairs


if __name__ == "__main__":
    main()

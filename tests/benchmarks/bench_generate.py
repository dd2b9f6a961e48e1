"""Times greedy answers: ours against transformers, CTranslate2, llama.cpp and the book chapter's own loop.

    python tests/benchmarks/bench_generate.py --json FILE --prompts 110 --new-tokens 64 --shape gpt2-124m
    python tests/benchmarks/bench_generate.py --device cuda --shape gpt2-355m

Everyone is given the same prompts and makes exactly so many new tokens for each; nothing ends an answer early. A
contestant that takes a minute or more for all prompts answers every so-manieth, and its seconds are scaled up. On a
GPU all compute in bf16, ours in fp32 too, and the warm-up is a whole run.
"""

import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
import outcome
from harness import OTHER_PYTHON, Contestant, Race

WORKERS = Path(__file__).with_name("generate_contestants.py")
SLOW = {"transformers-1": 11, "chapter": 3}  # prompts that are enough to know their speed
ONE_PROMPT = {"count": 1, "new_tokens": 2}
FIRST_TOKENS = 3  # times that the first token of one prompt alone is timed


def main() -> None:
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--prompts", type=int, default=110)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", default="", metavar="COUNTS", help="prompts, with commas, to see ours grow with")
    options = parser.parse_args()
    contestants = {name: contestant(name, why_not, options) for name, why_not in who_takes_part(options).items()}
    only = harness.chosen(options.only, contestants)
    with TemporaryDirectory(prefix="bench-generate-") as folder:
        tokenizer = make_task(Path(folder), options)
        race = Race(contestants, only, WORKERS, Path(folder) / "task.json", options.threads, options.device)
        try:
            measured = race.measure(options.repeats)
            busy = race.measure_busy() if options.device == "cuda" else {}
            first_tokens = {name: time_first_token(worker) for name, worker in race.workers.items()}
            ours = race.workers[harness.OURS]
            growth = {int(count): ours.run(count=int(count), new_tokens=options.new_tokens, keep=False)
                      for count in options.scale.split(",") if count}  # fmt: skip
        finally:
            race.close()
    total = options.prompts * options.new_tokens
    summary = outcome.summarise(measured, race.skipped, records=options.prompts, tokens=total) | {"busy_s": busy}
    texts = {name: texts_of(result.runs[0], tokenizer) for name, result in measured.items()}
    print(
        f"{options.shape}, {options.device}, {options.threads} threads; {options.prompts} prompts of the task, "
        f"{options.new_tokens} new tokens each, greedy, {options.repeats} runs each in turn"
    )
    columns = {
        "first token s": {name: f"{seconds:.3f}" for name, seconds in first_tokens.items()},
        "prompts": {name: str(contestants[name].run["count"]) for name in measured},
        "same as ours": {name: f"{agreement(texts[name], texts[harness.OURS]):.0%}" for name in measured},
    }
    if busy:
        medians = {name: values["median_s"] for name, values in summary["contestants"].items()}
        columns["GPU busy"] = {name: f"{busy[name] / medians[name]:.0%}" for name in medians if name in busy}
    outcome.print_table(summary, columns)
    for count, result in growth.items():
        print(
            f"ours, {count} prompts: {result['seconds']:.1f} s, {count * options.new_tokens / result['seconds']:.0f} "
            f"tokens/s, peak {result['peak_rss_mb']:.0f} MB"
        )
    outcome.write_summary(summary, options.json)


def who_takes_part(options: Any) -> dict[str, str]:
    """The contestants, each with the reason why it cannot take part on this device and shape, if there is one."""
    llama, on_gpu = options.shape == "smollm2", options.device == "cuda"
    cpu_only = "is timed on a CPU" if on_gpu else ""
    ctranslate2 = cpu_only or ("CTranslate2 is timed on the GPT-2 shapes" if llama else "")
    llama_cpp = cpu_only or ("" if llama else "llama.cpp is timed on the shape smollm2")
    return {
        "ours": "",
        "ours-fp32": "" if on_gpu else "is ours on a CPU",
        "ours-bf16": "is ours on a GPU" if on_gpu else "",
        "ours-int8": cpu_only,
        "transformers-1": "takes minutes and less of the GPU" if on_gpu else "",
        "transformers-32": "",
        "transformers-all": "",
        "chapter": cpu_only or harness.why_no_chapter(options.chapter, options.shape),
        "ctranslate2-fp32": ctranslate2,
        "ctranslate2-int8": ctranslate2,
        "llama.cpp-fp32": llama_cpp,
        "llama.cpp-q4_1": llama_cpp,
    }


def contestant(name: str, why_not: str, options: Any) -> Contestant:
    """How a contestant of this name takes part."""
    foreign = name.startswith(("ctranslate2", "llama.cpp"))
    count = min(SLOW.get(name, options.prompts), options.prompts)
    return Contestant(
        python=OTHER_PYTHON if foreign else Path(sys.executable),
        # On a GPU some prepare each number of rows at its first use.
        warm_up={"count": count, "new_tokens": options.new_tokens} if options.device == "cuda" else ONE_PROMPT,
        run={"count": count, "new_tokens": options.new_tokens},
        scale=options.prompts / count,
        why_not=why_not,
    )


def make_task(folder: Path, options: Any) -> Any:
    """Write the checkpoint and the task that workers read; gives the tokenizer."""
    from instruct.text.prompts import TEMPLATES
    from instruct.training.packing import shared_prefix

    tokenizer = harness.save_model(options.shape, folder / "model", options.device)
    template = TEMPLATES["alpaca"]
    most = max([options.prompts, *(int(count) for count in options.scale.split(",") if count)])
    texts = [template.render(record.instruction, record.input) for record in harness.draw_records(most)]
    ids = [tokenizer.encode(text) for text in texts]
    task = {
        "model": str(folder / "model"), "work": str(folder), "chapter": str(options.chapter),
        "device": options.device, "precision": "bf16" if options.device == "cuda" else "fp32",
        "threads": options.threads, "timed_prompts": options.prompts, "new_tokens": options.new_tokens,
        "prefix": template.prefix, "texts": texts, "ids": ids,
        "prefix_tokens": shared_prefix([tuple(one) for one in ids]) if len(ids) > 1 else 0,
    }  # fmt: skip
    if options.shape == "smollm2":
        task |= gguf_files(folder)
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    return tokenizer


def gguf_files(folder: Path) -> dict[str, str]:
    """SmolLM2 as llama.cpp takes it: the file of the backbone, and one with the same weights in fp32."""
    import gguf

    quantised, full = harness.smollm2().folder / harness.smollm2().files[0].name, folder / "fp32.gguf"
    reader = gguf.GGUFReader(quantised)
    writer = gguf.GGUFWriter(full, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name not in ("general.architecture", "general.file_type") and not field.name.startswith("GGUF."):
            kind = field.types[0]
            of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=of)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"gguf_q4_1": str(quantised), "gguf_fp32": str(full)}


def time_first_token(worker: harness.Worker) -> float:
    """Seconds from one prompt alone to its first token, the median of a few different prompts."""
    return statistics.median(
        worker.run(count=1, new_tokens=1, start=start, keep=False)["seconds"] for start in range(FIRST_TOKENS)
    )


def texts_of(run: dict[str, Any], tokenizer: Any) -> dict[str, str]:
    """The answers' texts by prompt; ours come as text, others' as token ids."""
    return {
        prompt: answer if isinstance(answer, str) else tokenizer.decode(answer).strip()
        for prompt, answer in run["answers"].items()
    }


def agreement(theirs: dict[str, str], ours: dict[str, str]) -> float:
    """The share of their answers that are ours to the letter."""
    return statistics.fmean(answer == ours[prompt] for prompt, answer in theirs.items())


if __name__ == "__main__":
    main()

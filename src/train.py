"""Stage 4 · train: the backbone and train + val → a checkpoint that answers instructions.

python src/train.py data/augmented models/sft metrics/train.json metrics/curves
torchrun --nproc-per-node 2 src/train.py ...      (train.parallel: ddp or fsdp)
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
from dataclasses import replace
from functools import partial
from pathlib import Path

from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.core.fingerprint import take_fingerprint
from instruct.core.params import load_params
from instruct.core.records import read_examples
from instruct.core.runtime import RuntimeParams, start_runtime
from instruct.core.stage import run_stage
from instruct.model.lora import add_lora
from instruct.model.pretrained import load_backbone
from instruct.text.encoding import with_end_of
from instruct.text.prompts import PromptParams
from instruct.training.distributed import start_parallel
from instruct.training.encode import encode_all
from instruct.training.outputs import TrainOutputs, write_results
from instruct.training.quantised import quantise_frozen
from instruct.training.resume import ResumeStore
from instruct.training.sample import SamplePrompt
from instruct.training.settings import TrainParams
from instruct.training.supervised import supervised
from instruct.training.throughput import Stopwatch, matmul_peak, write_speed


def main(split: Path, models: Path, metrics: Path, curves: Path) -> None:
    """Fine-tune the backbone; `models` gets best (lowest val loss) and last."""
    params, prompt = load_params("train", TrainParams), load_params("prompt", PromptParams)
    template, runtime = prompt.chosen, start_runtime(load_params("runtime", RuntimeParams))
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    stopwatch = Stopwatch()
    per_step = 0 if params.tokens_per_step else params.examples_per_step
    with start_parallel(params.parallel, examples_per_step=per_step, device=runtime.device) as parallel:
        with stopwatch.phase("load"):
            model, tokenizer = load_backbone(backbone, runtime.device)
            tokenizer = with_end_of(template, tokenizer)
        files = {part: split / f"{part}.json" for part in ("train", "val")}
        examples = {part: read_examples(file) for part, file in files.items()}
        longest = min(params.max_length, model.block_size + 1)
        fitted = {
            part: encode_all(
                ones, template, tokenizer, turns=params.turns, max_length=longest, over_long=params.over_long
            )
            for part, ones in examples.items()
        }
        if params.lora.r:
            add_lora(model, params.lora, params.seed)
            quantise_frozen(model, params.lora.base)
        # The number of processes and the time of saving are not part of a run: it resumes with others.
        alone = replace(params, parallel="none", save_minutes=0.0)
        settings = {"train": alone, "prompt": prompt, "runtime": runtime, "backbone": backbone}
        store = ResumeStore(models.parent / "resume" / models.name, take_fingerprint(settings, list(files.values())))
        sample = SamplePrompt(examples["val"][0], template, params.sample_tokens)
        outputs = TrainOutputs(model, tokenizer, backbone, parallel, store, sample)
        objective = supervised(params, runtime, tokenizer.eos_id)
        trainer = outputs.train(fitted["train"][0], fitted["val"][0], objective, params, runtime, stopwatch)
        with stopwatch.phase("save"):
            outputs.finish(models, metrics, curves, trainer, partial(write_results, fitted=fitted))
        if parallel.is_main:
            write_speed(models.parent / "speed.json", stopwatch.report(matmul_peak(runtime)))
        outputs.end(trainer, metrics)


if __name__ == "__main__":
    run_stage(main, writes=("models", "metrics", "curves"))

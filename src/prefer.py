"""Preference tuning · prefer: pairs and the SFT model → a model that gives the better answer more often.

python src/prefer.py data/pairs metrics/preferred/pairs.json data/reference.json models/sft/best models/dpo \
    metrics/preferred/prefer.json metrics/preferred
torchrun --nproc-per-node 2 src/prefer.py ...      (prefer.parallel: ddp or fsdp)
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from instruct.core.fingerprint import take_fingerprint
from instruct.core.params import load_params
from instruct.core.runtime import RuntimeParams, start_runtime
from instruct.core.stage import run_stage
from instruct.model.lora import add_lora
from instruct.model.pretrained import load_trained
from instruct.preference.encode import fit_files
from instruct.preference.loss import preferring
from instruct.preference.outputs import PreferOutputs, find_warnings, write_results
from instruct.preference.reference import made_from, with_reference
from instruct.preference.rules import read_rules
from instruct.preference.settings import PreferParams
from instruct.text.encoding import with_end_of
from instruct.text.prompts import PromptParams
from instruct.training.distributed import start_parallel
from instruct.training.quantised import quantise_frozen
from instruct.training.resume import ResumeStore
from instruct.training.throughput import Stopwatch, matmul_peak, write_speed

log = logging.getLogger(__name__)


def main(pairs: Path, described: Path, reference: Path, sft: Path, models: Path, metrics: Path, curves: Path) -> None:
    """Tune the SFT model on pairs, which are `described` by metrics; `models` gets best (by held-out loss) and last."""
    params, prompt = load_params("prefer", PreferParams), load_params("prompt", PromptParams)
    template, runtime = prompt.chosen, start_runtime(load_params("runtime", RuntimeParams))
    rules = read_rules(described)
    stopwatch = Stopwatch()
    with start_parallel(
        params.parallel, examples_per_step=params.examples_per_step, device=runtime.device, section=params.section
    ) as parallel:
        with stopwatch.phase("load"):
            model, tokenizer = load_trained(sft, runtime.device)
            tokenizer = with_end_of(template, tokenizer)
        fitted = fit_files(pairs, template, tokenizer, params.fit, model.block_size + 1)
        origin = made_from(pairs, sft, template, params.fit, runtime)
        known = with_reference(fitted, reference, origin)
        if params.lora.r:
            add_lora(model, params.lora, params.seed, params.section)
            quantise_frozen(model, params.lora.base, params.section)
        # How many processes share the work, and when they save it, is not part of a run: another number goes on.
        settings = {"prefer": replace(params, parallel="none", save_minutes=0.0), "runtime": runtime, "origin": origin}
        store = ResumeStore(models.parent / "resume" / models.name, take_fingerprint(settings, [reference]))
        outputs = PreferOutputs(model, tokenizer, template, sft, parallel, store, rules)
        objective = preferring(params, runtime, tokenizer.eos_id)
        trainer = outputs.train(known["train"], known["val"], objective, params, runtime, stopwatch)
        with stopwatch.phase("save"):
            outputs.finish(models, metrics, curves, trainer, partial(write_results, fitted=fitted, rules=rules))
        if parallel.is_main:
            for line in find_warnings(trainer.history, rules):
                log.warning("%s", line)
            write_speed(models.parent / f"speed-{models.name}.json", stopwatch.report(matmul_peak(runtime)))
        outputs.end(trainer, metrics)


if __name__ == "__main__":
    run_stage(main, writes=("models", "metrics", "curves"))

"""Preference tuning · reference: pairs and the SFT model → its log-probs of all answers.

python src/reference.py data/pairs models/sft/best data/reference.json
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
import logging
from pathlib import Path

from instruct.core.params import load_params
from instruct.core.runtime import RuntimeParams, start_runtime
from instruct.core.stage import run_stage
from instruct.model.pretrained import load_trained
from instruct.preference.encode import fit_files
from instruct.preference.reference import made_from, measure, write_reference
from instruct.preference.settings import Fit, PreferParams
from instruct.text.encoding import with_end_of
from instruct.text.prompts import PromptParams
from instruct.training.quantised import quantise_frozen

log = logging.getLogger(__name__)


def main(pairs: Path, checkpoint: Path, reference: Path) -> None:
    """Write the log-prob of each chosen and rejected answer by the model that training starts from."""
    # One setting at a time, so that DVC keeps the log-probs when any other setting of `prefer` changes.
    fit = Fit(
        batching=load_params("prefer", PreferParams).batching,
        max_length=load_params("prefer", PreferParams).max_length,
        over_long=load_params("prefer", PreferParams).over_long,
        base=load_params("prefer", PreferParams).lora.base,
    )
    template = load_params("prompt", PromptParams).chosen
    runtime = start_runtime(load_params("runtime", RuntimeParams))
    model, tokenizer = load_trained(checkpoint, runtime.device)
    tokenizer = with_end_of(template, tokenizer)
    quantise_frozen(model, fit.base, PreferParams.section)
    fitted = fit_files(pairs, template, tokenizer, fit, model.block_size + 1)
    measured = {part: measure(model, found.pairs, fit, runtime, tokenizer.eos_id) for part, found in fitted.items()}
    write_reference(reference, made_from(pairs, checkpoint, template, fit, runtime), measured)
    log.info("log-probs of %s pairs", " and ".join(f"{len(found.pairs)} {part}" for part, found in fitted.items()))


if __name__ == "__main__":
    run_stage(main, writes=("reference",))

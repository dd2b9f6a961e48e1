"""Optional stage · pairs: a file, the SFT model or a server → preference pairs, checked, for training and held out.

python src/pairs.py data/split models/sft/best data/pairs metrics/preferred/pairs.json
torchrun --nproc-per-node 2 src/pairs.py ...                       (on-policy: prompts shared by two processes)
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.checks.schema import read_checks
from instruct.core.files import checkpoint_files, write_json
from instruct.core.fingerprint import take_fingerprint
from instruct.core.inputs import check_inputs
from instruct.core.pairs import Pair
from instruct.core.params import load_params
from instruct.core.records import read_examples, write_records
from instruct.core.runtime import Runtime, RuntimeParams, start_runtime
from instruct.core.stage import run_stage
from instruct.evaluation.reference import compare
from instruct.generation.journal import Journal
from instruct.generation.settings import GenerateParams
from instruct.generation.shards import Shards, join_shards
from instruct.generation.together import answer_together, what_comes
from instruct.generation.weights import make_ready
from instruct.model.pretrained import load_trained
from instruct.pairs.checking import check_pairs
from instruct.pairs.dividing import divide_pairs
from instruct.pairs.reading import read_file
from instruct.pairs.rewriting import pair_rewritings
from instruct.pairs.sampling import Ranking, ask_again, pair_samples
from instruct.pairs.settings import PairsParams
from instruct.pairs.summary import pair_lines, summarise_pairs
from instruct.servers.lazy import LazyServer
from instruct.servers.settings import ServersParams
from instruct.text.encoding import with_end_of
from instruct.text.prompts import PromptParams

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Made:
    """Pairs as they come, what there is to say of them, and the journal that is needed until they are written."""

    pairs: list[Pair]
    about: dict[str, Any]
    journal: Journal | None = None


def main(split: Path, checkpoint: Path, folder: Path, metrics: Path) -> None:
    """Get pairs from where `pairs.source` says; only the train part of the split is ever asked about."""
    params = load_params("pairs", PairsParams)
    runtime = start_runtime(load_params("runtime", RuntimeParams))
    with join_shards(runtime.device) as shards:
        made = make_pairs(params, runtime, shards, split, checkpoint, folder)
        if shards.is_main:
            held_out = [record for part in ("val", "test") for record in read_examples(split / f"{part}.json")]
            checked = check_pairs(made.pairs, held_out, params, made.about.get("without", {}))
            train, val = divide_pairs(checked.pairs, params.val, params.seed)
            found = summarise_pairs(checked, train, val, {"source": params.source, **made.about}, params.seed)
            check_inputs()
            write_records(folder / "train.json", train)
            write_records(folder / "val.json", val)
            write_json(metrics, found)
            for line in pair_lines(found):
                log.info("%s", line)
        shards.wait()
        if made.journal:
            made.journal.forget()


def make_pairs(
    params: PairsParams, runtime: Runtime, shards: Shards, split: Path, checkpoint: Path, folder: Path
) -> Made:
    """The pairs of the chosen source; only the SFT model is shared among processes."""
    if params.source == "on-policy":
        return sample_pairs(params, runtime, shards, split, checkpoint, folder)
    if not shards.is_main:
        return Made(pairs=[], about={})
    if params.source == "rewrite":
        examples = read_examples(split / "train.json")
        with LazyServer(load_params("servers", ServersParams), params.rewrite.server) as server:
            pairs, without = pair_rewritings(examples, server.ask, params.rewrite, params.seed)
            return Made(pairs=pairs, about={"without": without, "server": server.identity})
    file = Path(params.file)
    pairs, invalid, others = read_file(file, drop=params.invalid == "drop")
    if others:
        log.info("%s: columns that are not used: %s", file, ", ".join(sorted(others)))
    return Made(pairs=pairs, about={"without": {"invalid": invalid}})


def sample_pairs(
    params: PairsParams, runtime: Runtime, shards: Shards, split: Path, checkpoint: Path, folder: Path
) -> Made:
    """Pairs of the SFT model's own answers to the train prompts."""
    generate, prompt = load_params("generate", GenerateParams), load_params("prompt", PromptParams)
    own = params.on_policy
    drawn = replace(
        generate, temperature=own.temperature, top_p=own.top_p, top_k=0, num_samples=1, weights="fp32", seed=params.seed
    )
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    settings = {"generate": drawn, "samples": own.samples, "prompt": prompt, "runtime": runtime, "backbone": backbone}
    files = [split / "train.json", *checkpoint_files(checkpoint)]
    model, tokenizer = load_trained(checkpoint, runtime.device)
    examples = read_examples(split / "train.json")
    asked = ask_again(examples, own.samples)
    if shards.is_main:
        log.info("%s", what_comes(len(asked), str(checkpoint), drawn, runtime, shards.world_size))
    # DVC empties the folder before it runs the stage again: the journal lies beside it.
    journal = Journal(shards.journal_beside(folder.with_name("pairs.sampled")), take_fingerprint(settings, files))
    answers = answer_together(
        make_ready(model, drawn.weights, runtime),
        with_end_of(prompt.chosen, tokenizer),
        asked,
        shards=shards,
        template=prompt.chosen,
        params=drawn,
        runtime=runtime,
        journal=journal,
    )
    ranking = Ranking(
        rank=own.rank,
        checks=read_checks(split / "train-checks.json"),
        similarity=lambda answer, reference: compare(answer, reference).similarity,
    )
    pairs, without = pair_samples(examples, answers, ranking, own)
    return Made(pairs=pairs, about={"without": without}, journal=journal)


if __name__ == "__main__":
    run_stage(main, writes=("folder", "metrics"))

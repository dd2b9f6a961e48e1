"""Stage 5 · baseline: test prompts → the answers that the SFT model must beat, a file for each system.

python src/baseline.py data/split/train.json data/split/test.json data/baselines
torchrun --nproc-per-node 2 src/baseline.py ...                                (prompts shared by two processes)
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from instruct.backbones.catalog import Backbone, ModelParams, find_backbone
from instruct.baselines.asking import Ways
from instruct.baselines.plain import PLAIN
from instruct.baselines.settings import SYSTEM_OF, Baseline, BaselineParams
from instruct.core.errors import ParamsError
from instruct.core.fingerprint import take_fingerprint
from instruct.core.inputs import check_inputs
from instruct.core.params import load_params
from instruct.core.records import Example, Response, read_examples, write_records
from instruct.core.runtime import Runtime, RuntimeParams, start_runtime
from instruct.core.stage import run_stage
from instruct.generation.journal import Journal
from instruct.generation.settings import GenerateParams
from instruct.generation.shards import Shards, join_shards
from instruct.generation.together import answer_together, what_comes
from instruct.generation.weights import make_ready
from instruct.model.chat_template import chat_template_of
from instruct.model.pretrained import load_backbone
from instruct.text.encoding import with_end_of
from instruct.text.prompts import PromptParams

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The sections of params.yaml that this stage reads; of `runtime` what was chosen on this machine."""

    baseline: BaselineParams
    generate: GenerateParams
    prompt: PromptParams
    runtime: Runtime
    backbone: Backbone


def main(train: Path, test: Path, folder: Path) -> None:
    """Answer every test record by each of the systems that params.yaml names."""
    settings = Settings(
        baseline=load_params("baseline", BaselineParams),
        generate=load_params("generate", GenerateParams),
        prompt=load_params("prompt", PromptParams),
        runtime=start_runtime(load_params("runtime", RuntimeParams)),
        backbone=find_backbone(load_params("model", ModelParams).backbone),
    )
    known, examples = read_examples(train), read_examples(test)
    systems = settings.baseline.systems
    with join_shards(settings.runtime.device) as shards:
        answers = {name: PLAIN[name](known, examples) for name in systems if name in PLAIN}
        # DVC empties the folder before it runs the stage again, so the journals are beside it.
        beside = {name: shards.journal_beside(folder.with_name(f"{folder.name}.{SYSTEM_OF[name]}")) for name in systems}
        fingerprint = take_fingerprint(vars(settings), [train, test])
        journals = {name: Journal(path, fingerprint) for name, path in beside.items()}
        if len(answers) < len(systems):
            answers |= ask_model(settings, shards, known, examples, journals)
        if not answers:
            raise ParamsError("params.yaml: baseline.systems: nothing is left of them; add template, echo or nearest")
        if shards.is_main:
            check_inputs()
            write(folder, {SYSTEM_OF[name]: answers[name] for name in systems if name in answers})
        shards.wait()
        for journal in journals.values():
            journal.forget()


def ask_model(
    settings: Settings,
    shards: Shards,
    known: Sequence[Example],
    examples: Sequence[Example],
    journals: Mapping[Baseline, Journal],
) -> dict[Baseline, list[Response]]:
    """The base model's answers, by system."""
    backbone, params, runtime = settings.backbone, settings.generate, settings.runtime
    model, tokenizer = load_backbone(backbone, runtime.device)
    answerer = make_ready(model, params.weights, runtime)
    template = settings.prompt.chosen
    ways = Ways(template, chat_template_of(backbone), tokenizer, settings.baseline)
    found = ways.all(known, examples, model.block_size - params.max_new_tokens)
    say(ways.lines if shards.is_main else [])
    answers: dict[Baseline, list[Response]] = {}
    for name, way in found.items():
        who = f"{backbone.called} ({SYSTEM_OF[name]})"
        say([what_comes(len(examples), who, params, runtime, shards.world_size)] if shards.is_main else [])
        answers[name] = answer_together(
            answerer,
            with_end_of(template, tokenizer) if name == "template" else tokenizer,
            examples,
            shards=shards,
            template=way,
            params=params,
            runtime=runtime,
            journal=journals[name],
        )
    return answers


def say(lines: Sequence[str]) -> None:
    """Log each of the lines."""
    for line in lines:
        log.info("%s", line)


def write(folder: Path, answers: Mapping[str, Sequence[Response]]) -> None:
    """Write a file for each system, and remove those of other systems."""
    for path in set(folder.glob("*.json")) - {folder / f"{system}.json" for system in answers}:
        path.unlink()
    for system, responses in answers.items():
        write_records(folder / f"{system}.json", responses)
        log.info("%s: %d answers", system, len(responses))


if __name__ == "__main__":
    run_stage(main, writes=("folder",))

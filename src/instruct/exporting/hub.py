"""`instruct export hf`: a folder for the Hugging Face Hub that transformers and vLLM load and chat with."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import jinja2
import torch

from instruct.core.errors import InstructError
from instruct.core.files import read_json, write_json, write_text
from instruct.exporting.export import Export
from instruct.exporting.proof import Check
from instruct.exporting.running import Runner
from instruct.exporting.source import Source
from instruct.exporting.training import TRAINED, TUNED
from instruct.model.checkpoint import save_checkpoint
from instruct.results.revisions import WORKSPACE
from instruct.results.runs import Run, read_run
from instruct.results.schema import HEADLINE, REFERENCE
from instruct.results.scores import Difference, ScoreResults, SystemScores

HubType = Literal["fp32", "bf16"]
CardRow = tuple[str, list[SystemScores | None], Difference | None]
CARD = Path(__file__).parent / "card.md"
"""The template of the model card."""
_ARITHMETIC: Mapping[HubType, str] = {"fp32": "float32 arithmetic", "bf16": "bfloat16 arithmetic"}
_FOLDERS = {folder.name: folder for folder in (TRAINED, TUNED)}
"""What training makes, by the system that it is."""
_SECTIONS = {"sft": ("split", "train", "generate"), "dpo": ("split", "train", "prefer", "generate")}
"""The sections of params.yaml that the card of a system shows."""


def hub_export(source: Source, kind: HubType, check: Check, name: str, root: Path) -> Export:
    """Weights, config, tokenizer with chat template, generation settings and model card."""

    def write(folder: Path) -> list[str]:
        state = source.model.state_dict()
        if kind == "bf16":
            state = {key: tensor.to(torch.bfloat16) for key, tensor in state.items()}
        save_checkpoint(source.model, source.tokenizer, folder, state=state, template=source.template)
        if kind == "bf16":
            config = read_json(folder / "config.json")
            write_json(folder / "config.json", {**config, "dtype": "bfloat16"})
        write_text(folder / "README.md", model_card(source, kind, check, name, root))
        return []

    return Export(
        kind="hf",
        settings={"type": kind, "name": name},
        write=write,
        runner=lambda folder: Runner(script="hub", needs=("transformers",), path=folder, how=_ARITHMETIC[kind]),
        bytes_needed=5 * sum(weight.numel() for weight in source.model.state_dict().values()),
    )


def push_line(repository: str, out: Path) -> str:
    """The command that uploads the folder; this module uploads nothing."""
    return f"hf upload {shlex.quote(repository)} {shlex.quote(str(out))} ."


def model_card(source: Source, kind: HubType, check: Check, name: str, root: Path) -> str:
    """README.md of the folder, with the metadata that the Hub reads."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    system = _system_of(source, root)
    run = _run_of(system, source, root)
    return environment.from_string(CARD.read_text(encoding="utf-8")).render(
        name=name,
        kind=kind,
        origin=source.origin,
        # The Hub's ids are SPDX's in lower case, except those of Meta's licences: llama3.2.
        licence_id=source.origin.licence.lower().replace("llama-", "llama"),
        template_name=source.template_name,
        prompt=source.template.render("{instruction}", "{input}"),
        stops=(*source.template.stop_strings, *source.stop_tokens),
        context=source.model.block_size,
        millions=sum(weight.numel() for weight in source.model.parameters()) / 1e6,
        check=check.words,
        system=system,
        run=run,
        settings={key: source.params[key] for key in _SECTIONS.get(system, ()) if key in source.params},
        scores=run and _scores_of(run, system),
    )


def _scores_of(run: Run, system: str) -> list[CardRow]:
    """Every score that the card shows: right answers and similarity, then the judges'.

    Each by its name in print, with all systems' means and the difference of the system that the card is about. A judge
    of pairs knows two of the systems.
    """
    measured = [(HEADLINE[one.name], one) for one in run.results.measured if one.name in HEADLINE]
    judged = [(judge.name, judge) for judge in run.results.judges if judge.name != REFERENCE]
    return [_row(run, system, *one) for one in (*measured, *judged)]


def _row(run: Run, system: str, name: str, score: ScoreResults) -> CardRow:
    known = {one.system: one for one in score.systems}
    differences = {(one.system, one.against): one for one in score.differences}
    means = [known.get(one) for one in run.results.names]
    return name, means, differences.get((system, run.results.against))


def _system_of(source: Source, root: Path) -> str:
    """The system whose training made this checkpoint; empty for a checkpoint from elsewhere."""
    folder = source.folder.resolve()
    return next((name for name, made in _FOLDERS.items() if folder.is_relative_to((root / made).resolve())), "")


def _run_of(system: str, source: Source, root: Path) -> Run | None:
    """The run whose answers are this checkpoint's; None if there is none or its results are out of date."""
    if not source.answered:
        return None
    try:
        run = read_run(WORKSPACE, root)
    except InstructError:
        return None
    return run if system in run.results.trained and not run.stale else None

"""`instruct export hf`: a folder for the Hugging Face Hub that transformers and vLLM load and chat with."""

import shlex
from pathlib import Path
from typing import Literal

import jinja2
import torch

from instruct.core.errors import InstructError
from instruct.core.files import read_json, write_json, write_text
from instruct.exporting.export import Export
from instruct.exporting.proof import Check
from instruct.exporting.running import Runner
from instruct.exporting.source import TRAINED, Source
from instruct.model.checkpoint import WEIGHTS, save_checkpoint, write_safetensors
from instruct.results.revisions import WORKSPACE
from instruct.results.runs import Run, read_run
from instruct.text.jinja import generation_settings, jinja_template

HubType = Literal["fp32", "bf16"]
CARD = Path(__file__).parent / "card.md"
"""The template of the model card."""
_SECTIONS = ("split", "train", "generate")  # sections of params.yaml that the card shows


def hub_export(source: Source, kind: HubType, check: Check, name: str, root: Path) -> Export:
    """Weights, config, tokenizer with chat template, generation settings and model card."""

    def write(folder: Path) -> list[str]:
        save_checkpoint(source.model, source.tokenizer, folder)
        if kind == "bf16":
            _halve(source, folder)
        write_text(folder / "chat_template.jinja", jinja_template(source.template, source.tokenizer))
        pad_id = source.tokenizer.encoding.encode_single_token(source.tokenizer.end_of_text)
        generation = {"do_sample": False, **generation_settings(source.tokenizer, pad_id)}
        write_json(folder / "generation_config.json", generation)
        write_text(folder / "README.md", model_card(source, kind, check, name, root))
        return []

    return Export(
        kind="hf",
        settings={"type": kind, "name": name},
        write=write,
        runner=lambda folder: Runner(script="hub", needs=("transformers",), path=folder),
        bytes_needed=5 * sum(weight.numel() for weight in source.model.state_dict().values()),
    )


def push_line(repository: str, out: Path) -> str:
    """The command that uploads the folder; this module uploads nothing."""
    return f"hf upload {shlex.quote(repository)} {shlex.quote(str(out))} ."


def _halve(source: Source, folder: Path) -> None:
    """Store the weights as bfloat16."""
    tensors = {}
    for name, tensor in source.model.state_dict().items():
        stored = tensor.t() if name.endswith(source.model.transposed) else tensor
        tensors[source.model.prefix + name] = stored.to(torch.bfloat16).contiguous()
    write_safetensors(folder / WEIGHTS, tensors)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "dtype": "bfloat16"})


def model_card(source: Source, kind: HubType, check: Check, name: str, root: Path) -> str:
    """README.md of the folder, with the metadata that the Hub reads."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    run = _run_of(source, root)
    return environment.from_string(CARD.read_text(encoding="utf-8")).render(
        name=name,
        kind=kind,
        origin=source.origin,
        template_name=source.template_name,
        prompt=source.template.render("{instruction}", "{input}"),
        stops=(*source.template.stop_strings, *source.stop_tokens),
        context=source.model.block_size,
        millions=sum(weight.numel() for weight in source.model.parameters()) / 1e6,
        check=check.words,
        run=run,
        settings=run and {key: run.params[key] for key in _SECTIONS if key in run.params},
        judges=run and {judge.name: judge for judge in run.results.judges},
    )


def _run_of(source: Source, root: Path) -> Run | None:
    """The run that trained this checkpoint, with its scores; None if it is missing or its results are out of date."""
    if not source.folder.resolve().is_relative_to((root / TRAINED).resolve()):
        return None
    try:
        run = read_run(WORKSPACE, root)
    except InstructError:
        return None
    return None if run.stale else run

"""The systems that can answer: base, SFT and DPO model, with the chat template of their evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.core.errors import CheckpointError, DataError, ParamsError
from instruct.core.files import checkpoint_files, sha256_of
from instruct.core.params import did_you_mean, load_params, read_params
from instruct.core.parsing import mapping, read_yaml
from instruct.generation.settings import GenerateParams
from instruct.results.lock import LOCK, stale_lines
from instruct.text.prompts import PromptParams, Template

if TYPE_CHECKING:
    from instruct.core.runtime import Runtime
    from instruct.generation.engine import Model
    from instruct.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)
# Each is made from the one before it; None is the backbone itself.
PLACES = {"base": None, "sft": Path("models/sft/best"), "dpo": Path("models/dpo/best")}
MAKERS = {"sft": "dvc repro train", "dpo": "dvc exp run -S 'prefer.methods=[dpo]'"}


@dataclass(frozen=True, kw_only=True)
class System:
    """A model that is ready to answer, with its tokenizer and template; `digest` identifies its files."""

    name: str
    digest: str
    model: Model
    tokenizer: Tokenizer
    template: Template
    template_name: str
    runtime: Runtime
    params: GenerateParams


def available() -> list[str]:
    """The systems whose weights exist in this folder, from the base model to the newest."""
    return [name for name, place in PLACES.items() if place is None or _weights(place)]


def choose(names: Sequence[str], *, every: bool = False) -> list[str]:
    """The named systems, or `every` one whose weights exist, or the newest; raises if one is missing."""
    here = available()
    for name in names:
        if name not in PLACES:
            raise ParamsError(f"there is no system {name}{did_you_mean(name, PLACES)}")
        if name not in here:
            raise CheckpointError(f"{PLACES[name]}: there is no checkpoint yet; run `{MAKERS[name]}`")
    if names or every:
        return list(dict.fromkeys(names)) or here
    if here == ["base"]:
        raise CheckpointError(
            f"{PLACES['sft']}: there is no checkpoint yet; run `{MAKERS['sft']}`, or give --system base"
        )
    return here[-1:]


def open_system(name: str, *, packed: bool = True, digest: bool = True) -> System:
    """Load a system; `packed` takes a second and makes batches faster, with the same answers.

    Warns if a trained one will answer in another prompt than that of its training.
    """
    from instruct.core.runtime import RuntimeParams, start_runtime
    from instruct.generation.weights import make_ready
    from instruct.model.pretrained import load_backbone
    from instruct.serving.opening import open_checkpoint
    from instruct.text.encoding import with_end_of

    params = load_params("generate", GenerateParams)
    runtime = start_runtime(load_params("runtime", RuntimeParams))
    place, prompt = PLACES[name], load_params("prompt", PromptParams)
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    for line in _other_prompt() if place else ():
        log.warning("%s was trained with another prompt: %s", name, line)
    model, tokenizer = open_checkpoint(place, runtime.device) if place else load_backbone(backbone, runtime.device)
    ready = make_ready(model, params.weights, runtime) if packed or params.weights != "fp32" else model
    return System(
        name=name,
        digest=digest_of(name) if digest else "",
        model=ready,
        tokenizer=with_end_of(prompt.chosen, tokenizer),
        template=prompt.chosen,
        template_name=prompt.template,
        runtime=runtime,
        params=params,
    )


def _other_prompt() -> Iterator[str]:
    """The settings of the prompt that have changed since the training that dvc.lock names, if it names one."""
    try:
        stages = mapping(mapping(read_yaml(Path(LOCK))).get("stages"))
    except DataError:  # absent, or a conflict in it: no reason not to answer
        return
    for line in stale_lines(read_params(), {}, {"stages": {"train": stages.get("train")}}):
        if line.startswith("prompt."):
            yield line


def digest_of(name: str) -> str:
    """The sha256 of the names and checksums of a system's files."""
    place = PLACES[name]
    if place is None:
        backbone = find_backbone(load_params("model", ModelParams).backbone)
        files = sorted((file.name, file.sha256) for file in backbone.files) or [(backbone.name, str(backbone.seed))]
    else:
        files = [(path.name, sha256_of(path)) for path in checkpoint_files(place)]
    return sha256("".join(f"{file} {checksum}\n" for file, checksum in files).encode()).hexdigest()


def _weights(place: Path) -> bool:
    return any(place.glob("*.safetensors"))

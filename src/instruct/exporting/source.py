"""The source of an export: a checkpoint's model and tokenizer, its chat template, and its origin."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from instruct.backbones.catalog import TABLE, read_table
from instruct.core.errors import BackboneError, CheckpointError, ParamsError
from instruct.core.files import read_json, read_text, sha256_of
from instruct.core.git import ask_git
from instruct.core.params import build, did_you_mean, read_params
from instruct.core.parsing import mapping
from instruct.exporting.chat import prompt_of
from instruct.exporting.training import training_of
from instruct.model.checkpoint import Model, empty_model, weight_files
from instruct.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config
from instruct.model.pretrained import is_folder, load_trained
from instruct.results.lock import LOCK, PARAMS
from instruct.text.encoding import with_end_of
from instruct.text.prompts import DEFAULT, TEMPLATES, PromptParams, Template, TemplateName
from instruct.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a checkpoint comes from; unknown fields are empty.

    `commit` is the project's, with `+changes` if tracked files differ from it. `lock_sha256` is the hash of dvc.lock
    if it names the checkpoint, `weights_sha256` the hash of each weight file.
    """

    commit: str
    lock_sha256: str
    weights_sha256: tuple[str, ...]
    base: str
    base_about: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A loaded checkpoint without padding rows; an adapter is merged into its backbone.

    `params` are all settings that it was trained with, empty for a checkpoint that dvc.lock does not name. The scores
    of the run are its own if it `answered` the test set.
    """

    folder: Path
    model: Model
    tokenizer: Tokenizer
    prompt: PromptParams
    origin: Origin
    params: Mapping[str, Any] = field(default_factory=dict)
    answered: bool = False

    @property
    def template_name(self) -> TemplateName:
        return self.prompt.template

    @property
    def template(self) -> Template:
        """The template that the checkpoint was trained with."""
        return self.prompt.chosen

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """The texts of the tokens that end an answer, the model's own end token first."""
        ids = sorted(self.tokenizer.stop_ids, key=lambda id_: (id_ != self.tokenizer.eos_id, id_))
        return tuple(map(self.tokenizer.spell, ids))


def open_source(root: Path, checkpoint: Path, template: str | None = None) -> Source:
    """Read a checkpoint and its origin.

    Raises ParamsError for a template that is unknown or not that of training, CheckpointError for a checkpoint that
    cannot be read or is not the one that dvc.lock names.
    """
    require_checkpoint(root, checkpoint)
    folder = root / checkpoint
    training = training_of(root, checkpoint)
    settings = training.settings
    model, tokenizer = load_trained(folder, torch.device("cpu"))
    prompt = _prompt_of(folder, template, settings, begin="".join(map(tokenizer.spell, tokenizer.begin_ids)))
    return Source(
        folder=folder,
        model=without_padding(model, tokenizer),
        tokenizer=with_end_of(prompt.chosen, tokenizer),
        prompt=prompt,
        origin=_origin(root, folder, settings),
        params={**read_params(root / PARAMS), **settings} if settings else {},
        answered=training.answered,
    )


def without_padding(model: Model, tokenizer: Tokenizer) -> Model:
    """The model, frozen, with one row for each token: a program could choose a padding row, which is not a token."""
    cut = empty_model(replace(model.config, vocab_size=tokenizer.vocab_size))
    state = model.state_dict()
    cut.load_state_dict({name: state[name][: len(wanted)] for name, wanted in cut.state_dict().items()}, assign=True)
    return cut.eval().requires_grad_(False)


def require_checkpoint(root: Path, checkpoint: Path) -> None:
    """Raise CheckpointError for a folder that does not exist or has no weights."""
    if not any((root / checkpoint).glob("*.safetensors")):
        lacks = "has no *.safetensors" if (root / checkpoint).is_dir() else "no such checkpoint"
        raise CheckpointError(f"{checkpoint}: {lacks}; run `dvc repro train` or give --checkpoint")


def _prompt_of(folder: Path, given: str | None, settings: Mapping[str, Any], begin: str) -> PromptParams:
    """The prompt of training by dvc.lock, else the requested template, else the one that matches the chat template.

    A requested template has the system prompt of the checkpoint's chat template if it is the same template.
    """
    text = _stored_chat_template(folder)
    stored = prompt_of(text, begin)
    if trained := mapping(settings.get("prompt")):
        prompt = build(PromptParams, {"system": DEFAULT, **trained}, where=f"{LOCK}: prompt")
        if text and (stored is None or stored.chosen != prompt.chosen):
            raise CheckpointError(f"{folder}: its chat template is not the one of `prompt` in {LOCK}; run `dvc repro`")
        if given not in (None, prompt.template):
            raise ParamsError(f"--template: {folder} was trained with {prompt.template}; leave out --template")
        return prompt
    if stored and given in (None, stored.template):
        return stored
    for name in TEMPLATES:
        if name == given:
            return PromptParams(template=name, system=DEFAULT)
    names = " or ".join(TEMPLATES)
    if given is None:
        raise ParamsError(f"{folder}: the template it was trained with is unknown; give --template {names}")
    raise ParamsError(f"--template: {given} is not a template{did_you_mean(given, TEMPLATES)}; give {names}")


def _stored_chat_template(folder: Path) -> str:
    """The chat template in the checkpoint, or an empty text."""
    if (alone := folder / "chat_template.jinja").is_file():
        return read_text(alone)
    config = folder / "tokenizer_config.json"
    stored = mapping(read_json(config)).get("chat_template") if config.is_file() else None
    return stored if isinstance(stored, str) else ""


def _origin(root: Path, folder: Path, settings: Mapping[str, Any]) -> Origin:
    if (folder / ADAPTER_CONFIG).exists():
        base, files = read_adapter_config(folder / ADAPTER_CONFIG)[0], [folder / ADAPTER_WEIGHTS]
    else:
        base, files = "", weight_files(folder)
    if not base or is_folder(base):
        base = str(mapping(settings.get("model")).get("backbone") or "")
    entry = _entry(root, base)
    return Origin(
        commit=commit_of(root),
        lock_sha256=sha256_of(root / LOCK) if settings else "",
        weights_sha256=tuple(sha256_of(path) for path in files),
        base=base,
        base_about=entry[0],
        licence=entry[1],
    )


def _entry(root: Path, base: str) -> tuple[str, str]:
    """A backbone's entry in the table: about, licence; empty if it has no entry."""
    try:
        backbone = read_table(root / TABLE).get(base) if base else None
    except BackboneError:
        backbone = None
    return (backbone.about, backbone.licence) if backbone else ("", "")


def commit_of(root: Path) -> str:
    """The commit of the project, marked if tracked files differ from it; empty outside Git."""
    commit = ask_git(root, "rev-parse", "HEAD") or ""
    changed = ask_git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if commit and changed else commit

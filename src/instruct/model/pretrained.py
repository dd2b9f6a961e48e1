"""A backbone by name: its files fetched if need be, verified, and loaded."""

from pathlib import Path

import torch

from instruct.backbones.catalog import Backbone, find_backbone
from instruct.backbones.fetch import ensure
from instruct.core.errors import BackboneError, CheckpointError, ParamsError
from instruct.core.params import build
from instruct.model.checkpoint import (
    Model,
    check_vocabulary,
    checksums_of,
    empty_model,
    fill,
    load_checkpoint,
    random_model,
    safetensors_weights,
)
from instruct.model.config_file import Config, read_config
from instruct.model.gguf_file import GGUFFile
from instruct.model.gpt2 import GPT2Config
from instruct.model.lora import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    add_lora,
    fill_adapter,
    merge_lora,
    read_adapter_config,
)
from instruct.text.tokenizer import Tokenizer, gpt2_tokenizer, load_tokenizer


def load_backbone(backbone: Backbone, device: torch.device) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a backbone, in evaluation mode, in float32.

    Memory holds the weights once. Raises BackboneError or CheckpointError where the files are not usable.
    """
    paths = ensure(backbone)
    if backbone.format == "gguf":
        file = GGUFFile(paths[0])
        _check_family(backbone, file.architecture)
        model = fill(empty_model(file.config()), file.weights(), where=str(paths[0]))
        return model.to(device).eval(), file.tokenizer()
    weights = [path for path in paths if path.suffix == ".safetensors"]
    if any(path.name == "config.json" for path in paths):
        described, tokenizer = _described(backbone)
        return fill(empty_model(described), safetensors_weights(weights), where=backbone.name).to(
            device
        ).eval(), tokenizer
    try:
        config, tokenizer = build(GPT2Config, backbone.config, where=f"{backbone.name}: config"), gpt2_tokenizer()
        check_vocabulary(tokenizer, config, where=backbone.name)
    except (ParamsError, CheckpointError) as error:
        raise BackboneError(f"{error}; correct the table of backbones") from None
    if backbone.format == "random":
        model = random_model(config, backbone.seed)
    else:
        model = fill(
            empty_model(config),
            safetensors_weights(weights),
            where=backbone.name,
        )
    return model.to(device).eval(), tokenizer


def _described(backbone: Backbone) -> tuple[Config, Tokenizer]:
    """The shape and the tokenizer of a backbone with its own config.json and tokenizer.json."""
    path = backbone.folder / "config.json"
    config = read_config(path, eos_token_id=backbone.config.get("eos_token_id"))
    _check_family(backbone, "gpt2" if isinstance(config, GPT2Config) else config.family)
    tokenizer = load_tokenizer(backbone.folder / "tokenizer.json", config.eos_token_id)
    check_vocabulary(tokenizer, config, where=backbone.name)
    return config, tokenizer


def _check_family(backbone: Backbone, found: str) -> None:
    if found != backbone.family:
        raise BackboneError(f"{backbone.name}: is a {found}, not the {backbone.family} of the table; correct the table")


def load_tokenizer_of(backbone: Backbone) -> Tokenizer:
    """The tokenizer of a backbone, without its weights."""
    return open_tokenizer(backbone)[0]


def open_tokenizer(backbone: Backbone) -> tuple[Tokenizer, int]:
    """The tokenizer of a backbone and its context in tokens, without its weights."""
    paths = {path.name: path for path in ensure(backbone)}
    if backbone.format == "gguf":
        file = GGUFFile(next(iter(paths.values())))
        return file.tokenizer(), _context(file.config())
    if "tokenizer.json" in paths:
        config, tokenizer = _described(backbone)
        return tokenizer, _context(config)
    return gpt2_tokenizer(), build(GPT2Config, backbone.config, where=f"{backbone.name}: config").n_positions


def _context(config: Config) -> int:
    return config.n_positions if isinstance(config, GPT2Config) else config.max_position_embeddings


def load_trained(folder: Path, device: torch.device) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a trained checkpoint; an adapter is merged into what it was trained on.

    Raises CheckpointError where that now has other weights than the adapter was trained on.
    """
    if not (folder / ADAPTER_CONFIG).exists():
        return load_checkpoint(folder, device)
    name, checksums, params = read_adapter_config(folder / ADAPTER_CONFIG)
    model, tokenizer = _load_base(name, checksums, device, where=folder)
    add_lora(model, params, seed=0)
    fill_adapter(model, model.prefix, safetensors_weights([folder / ADAPTER_WEIGHTS]), where=str(folder))
    merge_lora(model)
    return model.requires_grad_(True).eval(), tokenizer


def _load_base(name: str, checksums: list[str], device: torch.device, *, where: Path) -> tuple[Model, Tokenizer]:
    """What an adapter was trained on: a backbone of the table, or a checkpoint of which `name` is the path."""
    if is_folder(name):
        if not Path(name).is_dir():
            raise CheckpointError(f"{where}: is an adapter of {name}, which is missing; run `dvc checkout {name}`")
        if checksums_of(Path(name)) != checksums:
            raise CheckpointError(f"{where}: was trained on another checkpoint than {name} now holds; run `dvc repro`")
        return load_trained(Path(name), device)
    backbone = find_backbone(name)
    if [file.sha256 for file in backbone.files] != checksums:
        raise CheckpointError(f"{where}: was trained on other weights than the table now pins for {name}; train again")
    return load_backbone(backbone, device)


def is_folder(base: str) -> bool:
    """Whether an adapter's base is the folder of a checkpoint: names of backbones are plain."""
    return "/" in base

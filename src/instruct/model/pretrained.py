"""A backbone by name: its files fetched if need be, verified, and loaded."""

import torch

from instruct.errors import BackboneError
from instruct.model.backbones import Backbone
from instruct.model.checkpoint import (
    Model,
    empty_model,
    fill,
    load_checkpoint,
    random_model,
    read_config,
    safetensors_weights,
)
from instruct.model.fetch import ensure
from instruct.model.gguf_file import GGUFFile
from instruct.model.gpt2 import GPT2Config
from instruct.text.tokenizer import Tokenizer, gpt2_tokenizer, load_tokenizer


def load_backbone(backbone: Backbone, device: torch.device) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a backbone, in evaluation mode, in float32.

    Memory holds the weights once. Raises BackboneError or CheckpointError where the files are not usable.
    """
    paths = ensure(backbone)
    if backbone.format == "gguf":
        file = GGUFFile(paths[0])
        model = fill(empty_model(file.config()), file.weights(), where=str(paths[0]))
        return model.to(device).eval(), file.tokenizer()
    if any(path.name == "config.json" for path in paths):
        return load_checkpoint(backbone.folder, device)
    if backbone.family != "gpt2":
        raise BackboneError(
            f"{backbone.name}: a {backbone.family} backbone needs the format gguf, or config.json and tokenizer.json "
            "among its files"
        )
    try:
        config = GPT2Config(**backbone.config)
    except TypeError as error:
        raise BackboneError(f"{backbone.name}: its config in the table is wrong ({error})") from None
    if backbone.format == "random":
        model = random_model(config, backbone.seed)
    else:
        model = fill(
            empty_model(config),
            safetensors_weights(p for p in paths if p.suffix == ".safetensors"),
            where=backbone.name,
        )
    return model.to(device).eval(), gpt2_tokenizer()


def load_tokenizer_of(backbone: Backbone) -> Tokenizer:
    """The tokenizer of a backbone, without its weights."""
    paths = {path.name: path for path in ensure(backbone)}
    if backbone.format == "gguf":
        return GGUFFile(next(iter(paths.values()))).tokenizer()
    if "tokenizer.json" in paths:
        return load_tokenizer(paths["tokenizer.json"], read_config(paths["config.json"]).eos_token_id)
    return gpt2_tokenizer()

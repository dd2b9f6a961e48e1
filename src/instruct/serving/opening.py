"""Opens a checkpoint for serving."""

from pathlib import Path

import torch

from instruct.model.checkpoint import Model, check_vocabulary, empty_model, fill, safetensors_weights, weight_files
from instruct.model.config_file import read_config
from instruct.model.lora import ADAPTER_CONFIG
from instruct.model.pretrained import load_trained
from instruct.serving.checked import checked_tokenizer
from instruct.text.tokenizer import Tokenizer


def open_checkpoint(folder: Path, device: torch.device) -> tuple[Model, Tokenizer]:
    """The same as `load_trained`, with a tokenizer that is checked only once."""
    if (folder / ADAPTER_CONFIG).exists():
        return load_trained(folder, device)
    config = read_config(folder / "config.json")
    tokenizer = checked_tokenizer(folder / "tokenizer.json", config.eos_token_id)
    check_vocabulary(tokenizer, config, where=str(folder))
    model = fill(empty_model(config), safetensors_weights(weight_files(folder)), where=str(folder))
    return model.to(device).eval(), tokenizer

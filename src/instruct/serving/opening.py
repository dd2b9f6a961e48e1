"""Opens a checkpoint for serving."""

from pathlib import Path

import torch

from instruct.model.checkpoint import Model, load_checkpoint
from instruct.model.lora import ADAPTER_CONFIG
from instruct.model.pretrained import load_trained
from instruct.serving.checked import checked_tokenizer
from instruct.text.tokenizer import Tokenizer


def open_checkpoint(folder: Path, device: torch.device) -> tuple[Model, Tokenizer]:
    """The same as `load_trained`, with a tokenizer that is checked only once."""
    if (folder / ADAPTER_CONFIG).exists():
        return load_trained(folder, device)
    return load_checkpoint(folder, device, checked_tokenizer)

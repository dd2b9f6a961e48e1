"""A LoRA adapter for llama.cpp (GGUF) and PEFT, without its base model."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import torch
from torch import Tensor

from instruct.backbones.catalog import find_backbone
from instruct.core.errors import CheckpointError
from instruct.exporting.gguf_names import family_of, in_stored_order, stored_name
from instruct.exporting.gguf_writer import write_out
from instruct.exporting.source import Source, without_padding
from instruct.model.checkpoint import safetensors_weights
from instruct.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config
from instruct.model.pretrained import is_folder, load_backbone

_PREFIX = "base_model.model."  # PEFT's prefix of names


def require_adapter(source: Source) -> None:
    """Raise CheckpointError for a checkpoint that is not an adapter of a backbone."""
    if not (source.folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{source.folder}: is a whole model, not a LoRA adapter; use `instruct export gguf` or `hf`"
        )
    base = read_adapter_config(source.folder / ADAPTER_CONFIG)[0]
    if is_folder(base):
        raise CheckpointError(
            f"{source.folder}: is an adapter of {base}, which nobody else has; use `instruct export gguf` or `hf`"
        )


def base_source(source: Source) -> Source:
    """The base model of an adapter, with the adapter's template."""
    backbone = find_backbone(source.origin.base)
    model, tokenizer = load_backbone(backbone, torch.device("cpu"))
    return replace(source, model=without_padding(model, tokenizer), tokenizer=tokenizer)


def write_peft_adapter(source: Source, folder: Path) -> None:
    """Copy the adapter, which is already in PEFT's layout, and its tokenizer."""
    for file in sorted(source.folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)


def write_gguf_adapter(source: Source, path: Path, *, name: str, about: Mapping[str, str]) -> None:
    """Write the adapter's matrices with llama.cpp's names and row order; they stay F32."""
    config = source.model.config.to_huggingface()
    writer = gguf.GGUFWriter(path, family_of(config).architecture)
    try:
        writer.add_type("adapter")
        writer.add_name(name)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", read_adapter_config(source.folder / ADAPTER_CONFIG)[2].alpha)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        if source.origin.licence:
            writer.add_license(source.origin.licence)
        for key, value in about.items():
            if value:
                writer.add_string(f"instruct.{key}", value)
        for stored, matrix in adapter_matrices(source):
            writer.add_tensor(stored, matrix.numpy())
        write_out(writer)
    finally:
        writer.close()


def adapter_matrices(source: Source) -> Iterator[tuple[str, Tensor]]:
    """Each matrix by llama.cpp's name: A (rank, in), and B (out, rank) with its rows in the base's order."""
    config = source.model.config.to_huggingface()
    family = family_of(config)
    for raw, matrix in safetensors_weights([source.folder / ADAPTER_WEIGHTS]):
        module, _, kind = raw.removeprefix(_PREFIX + source.model.prefix).removesuffix(".weight").rpartition(".")
        stored = stored_name(family, f"{module}.weight")
        rows = in_stored_order(family, config, stored, matrix.float()) if kind == "lora_B" else matrix.float()
        yield f"{stored}.{kind.lower()}", rows.contiguous()

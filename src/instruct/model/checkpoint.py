"""Weights in and out: safetensors and JSON in the layout of Hugging Face, loaded without a second copy.

A checkpoint is a folder with `config.json`, `model.safetensors`, `tokenizer.json` and `tokenizer_config.json`,
which transformers loads as it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from instruct.errors import CheckpointError, DataError, InstructError
from instruct.files import read_json, write_atomically, write_json
from instruct.model.gpt2 import GPT2, GPT2Config
from instruct.model.llama import Llama, LlamaConfig
from instruct.text.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer, save_tokenizer

Model = GPT2 | Llama
WEIGHTS = "model.safetensors"
_FAMILIES: Mapping[str, tuple[type[GPT2Config] | type[LlamaConfig], type[GPT2] | type[Llama]]] = {
    "gpt2": (GPT2Config, GPT2),
    "llama": (LlamaConfig, Llama),
}


def empty_model(config: GPT2Config | LlamaConfig) -> Model:
    """A model without memory (on the meta device), to be filled by `fill`."""
    with torch.device("meta"):
        return GPT2(config) if isinstance(config, GPT2Config) else Llama(config)


def random_model(config: GPT2Config | LlamaConfig, seed: int) -> Model:
    """A model with weights drawn from `seed`: normal with deviation 0.02, norms one, biases zero."""
    model = empty_model(config).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.02, generator=generator)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def fill(model: Model, weights: Iterable[tuple[str, Tensor]], *, where: str) -> Model:
    """Give a model on the meta device its weights, each taken over, not copied.

    Raises CheckpointError for a tensor that is missing, unknown, of another shape or not finite in kind.
    """
    wanted = model.state_dict()
    state: dict[str, Tensor] = {}
    for raw_name, raw in weights:
        name = raw_name.removeprefix(model.prefix)
        if _not_a_weight(name):
            continue
        if name not in wanted:
            raise CheckpointError(f"{where}: the tensor {raw_name} has no place in this model; is it another family?")
        tensor = raw.t().contiguous() if name.endswith(model.transposed) and raw.ndim == 2 else raw
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
            raise CheckpointError(f"{where}: the tensor {raw_name} has shape {shapes}; is the config another model's?")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{where}: the tensor {raw_name} holds {tensor.dtype}, not floating-point numbers")
        state[name] = tensor.float()
    missing = sorted(set(wanted) - set(state))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            f"{where}: the tensors {', '.join(missing[:3])}{more} are missing; fetch or save it again"
        )
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


def _not_a_weight(name: str) -> bool:
    """Buffers and the copy of the tied head, which old checkpoints carry along."""
    return name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq"))


def safetensors_weights(paths: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one or several (sharded) safetensors files, one at a time."""
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    yield name, file.get_tensor(name).clone()
        except FileNotFoundError:
            raise CheckpointError(f"{path}: there is no such file; run the stage that makes it") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file ({error}); fetch or save it again") from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder: one, or the shards that its index names."""
    index = folder / f"{WEIGHTS}.index.json"
    if not index.exists():
        return [folder / WEIGHTS]
    try:
        names = set(read_json(index)["weight_map"].values())
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: holds no weight_map; fetch it again") from None
    outside = sorted(name for name in names if Path(name).name != name)
    if outside:
        raise CheckpointError(f"{index}: names {outside[0]}, which is not a file of this folder")
    return [folder / name for name in sorted(names)]


def read_config(path: Path) -> GPT2Config | LlamaConfig:
    """A model's shape from a config.json; raises CheckpointError for a family or a variant that is not ours."""
    values = _read(path)
    family = str(values.get("model_type"))
    if family not in _FAMILIES:
        raise CheckpointError(f'{path}: model_type is "{family}"; only {" and ".join(_FAMILIES)} can be loaded')
    for key, ours in (("tie_word_embeddings", True), ("attention_bias", False), ("mlp_bias", False)):
        if values.get(key, ours) != ours:
            raise CheckpointError(f"{path}: {key} {values[key]} is a variant that cannot be loaded")
    config_class = _FAMILIES[family][0]
    names = {field.name for field in fields(config_class)}
    if "rope_theta" in names and isinstance(values.get("rope_parameters"), dict):
        values = {**values, **values["rope_parameters"]}
    try:
        return config_class(**{name: values[name] for name in names if values.get(name) is not None})
    except TypeError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must be a JSON object")
    return values


def save_checkpoint(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a checkpoint; each file is complete or is the one that was there before.

    Raises CheckpointError where the disk refuses, the older checkpoint untouched.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        stored = tensor.t() if name.endswith(model.transposed) else tensor
        state[model.prefix + name] = stored.detach().cpu().contiguous()

    def write(part: Path) -> None:
        try:
            # One metadata key only: safetensors writes several in random order.
            save_file(state, part, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(0, str(error)) from None

    try:
        write_atomically(folder / WEIGHTS, write)
        write_json(folder / "config.json", model.config.to_huggingface())
        save_tokenizer(tokenizer, folder / "tokenizer.json")
        eos = tokenizer.encoding.decode_single_token_bytes(tokenizer.eos_id).decode()
        extra = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": END_OF_TEXT}
        write_json(folder / "tokenizer_config.json", extra)
    except InstructError as error:
        raise CheckpointError(f"{error}; the checkpoint that was there before is untouched") from error


def load_checkpoint(folder: Path, device: torch.device) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a checkpoint folder, in evaluation mode."""
    config = read_config(folder / "config.json")
    tokenizer = load_tokenizer(folder / "tokenizer.json", config.eos_token_id)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}; "
            "they belong to different models"
        )
    model = fill(empty_model(config), safetensors_weights(weight_files(folder)), where=str(folder))
    return model.to(device).eval(), tokenizer

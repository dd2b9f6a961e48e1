"""Weights in and out: safetensors and JSON in the layout of Hugging Face, loaded without a second copy.

A checkpoint is a folder with `config.json`, `model.safetensors`, `tokenizer.json` and `tokenizer_config.json`,
which transformers loads as it is, and, where its chat template is known, `generation_config.json`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from instruct.backbones.catalog import Backbone
from instruct.core.errors import CheckpointError, InstructError
from instruct.core.files import checkpoint_files, sha256_of, write_atomically, write_json
from instruct.model.config_file import Config, read_config, read_object
from instruct.model.gpt2 import GPT2, GPT2Config
from instruct.model.limits import MOST_RANDOM_WEIGHTS
from instruct.model.llama import Llama
from instruct.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_config, adapter_tensors, check_finite
from instruct.text.jinja import chat_settings, generation_settings
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer, load_tokenizer, save_tokenizer

Model = GPT2 | Llama
WEIGHTS, HEAD = "model.safetensors", "lm_head.weight"
# Buffers that old checkpoints store beside the weights.
_BUFFERS = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")


def empty_model(config: Config) -> Model:
    """A model without memory (on the meta device), to be filled by `fill`."""
    with torch.device("meta"):
        return GPT2(config) if isinstance(config, GPT2Config) else Llama(config)


def random_model(config: Config, seed: int) -> Model:
    """A model with weights drawn from `seed`: normal with deviation 0.02, norms one, biases zero."""
    empty = empty_model(config)
    count = sum(weight.numel() for weight in empty.parameters())
    if count > MOST_RANDOM_WEIGHTS:
        raise CheckpointError(f"config: {count:,} random weights are more than {MOST_RANDOM_WEIGHTS:,}")
    model = empty.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.02, generator=generator)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def fill(model: Model, weights: Iterable[tuple[str, Tensor]], *, where: str) -> Model:
    """Give a model on the meta device its weights, each by reference, not copied.

    Raises CheckpointError for a tensor that is missing, unknown, there twice, of another shape, of whole numbers or
    with NaN or infinity in it, and for the head of a tied model that is not its embedding.
    """
    wanted = model.state_dict()
    state: dict[str, Tensor] = {}
    head: Tensor | None = None
    for raw_name, raw in weights:
        name = raw_name.removeprefix(model.prefix)
        if name == HEAD and name not in wanted:
            head = raw
            continue
        if name.endswith(_BUFFERS):
            continue
        if name not in wanted:
            raise CheckpointError(f"{where}: the tensor {raw_name} has no place in this model; is it another family?")
        tensor = raw.t().contiguous() if name.endswith(model.transposed) and raw.ndim == 2 else raw
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
            raise CheckpointError(f"{where}: the tensor {raw_name} has shape {shapes}; is the config another model's?")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{where}: the tensor {raw_name} holds {tensor.dtype}, not floating-point numbers")
        if name in state:
            raise CheckpointError(f"{where}: the tensor {raw_name} is there twice; fetch or save it again")
        state[name] = tensor.float()
        check_finite(raw_name, state[name], where=where)
    missing = sorted(set(wanted) - set(state))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            f"{where}: the tensors {', '.join(missing[:3])}{more} are missing; fetch or save it again"
        )
    model.load_state_dict(state, assign=True)
    if head is not None and not torch.equal(head.float(), model.embedding.weight):
        raise CheckpointError(f"{where}: {HEAD} is not the embedding, a variant that cannot be loaded in a tied model")
    return model.requires_grad_(True)


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
    if (folder / WEIGHTS).exists() or not index.exists():
        return [folder / WEIGHTS]
    try:
        names = {str(name) for name in read_object(index)["weight_map"].values()}
    except (KeyError, AttributeError):
        raise CheckpointError(f"{index}: holds no weight_map; fetch it again") from None
    outside = sorted(name for name in names if Path(name).name != name or not name.endswith(".safetensors"))
    if outside:
        raise CheckpointError(f"{index}: names {outside[0]}, which is not a safetensors file of this folder")
    return [folder / name for name in sorted(names)]


def save_checkpoint(
    model: Model,
    tokenizer: Tokenizer,
    folder: Path,
    state: Mapping[str, Tensor] | None = None,
    template: Template | None = None,
) -> None:
    """Write a plain checkpoint with `template` as its chat template for other programs.

    `state` holds the weights to write if the model's own are sharded. Raises CheckpointError for disk errors; it leaves
    the older checkpoint untouched.
    """
    tensors = {}
    for name, tensor in (state or model.state_dict()).items():
        stored = tensor.t() if name.endswith(model.transposed) else tensor
        tensors[name if name == HEAD else model.prefix + name] = stored.detach().cpu().contiguous()
    with _all_or_nothing(folder) as new:
        write_safetensors(new / WEIGHTS, tensors)
        write_json(new / "config.json", {**model.config.to_huggingface(), "eos_token_id": tokenizer.eos_id})
        _save_tokenizer(tokenizer, new, template)


def save_adapter(
    model: Model,
    tokenizer: Tokenizer,
    folder: Path,
    base: Backbone | Path,
    state: Mapping[str, Tensor] | None = None,
    template: Template | None = None,
) -> None:
    """Write a checkpoint with only the adapters, and the name and checksums of what they were trained on.

    That is a backbone, or the folder of another trained checkpoint, which must stay where it is.
    """
    tensors = adapter_tensors(state or model.state_dict(), model.prefix)
    name = base.as_posix() if isinstance(base, Path) else base.name
    checksums = checksums_of(base) if isinstance(base, Path) else [file.sha256 for file in base.files]
    with _all_or_nothing(folder) as new:
        write_safetensors(new / ADAPTER_WEIGHTS, tensors)
        write_json(new / ADAPTER_CONFIG, adapter_config(model, name, checksums, transposed=isinstance(model, GPT2)))
        _save_tokenizer(tokenizer, new, template)


def checksums_of(folder: Path) -> list[str]:
    """The sha256 of every file of a trained checkpoint, in the order of their names."""
    return [sha256_of(path) for path in checkpoint_files(folder)]


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors atomically; at most one metadata key, because safetensors orders several at random."""

    def write(part: Path) -> None:
        try:
            save_file(dict(tensors), part, metadata=dict(metadata or {"format": "pt"}))
        except SafetensorError as error:
            raise OSError(0, str(error)) from None

    write_atomically(path, write)


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, template: Template | None) -> None:
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    eos = tokenizer.spell(tokenizer.eos_id)
    extra = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": tokenizer.end_of_text}
    if template:
        pad_id = tokenizer.encoding.encode_single_token(extra["pad_token"])
        write_json(folder / "generation_config.json", generation_settings(tokenizer, pad_id))
    write_json(folder / "tokenizer_config.json", {**extra, **(chat_settings(template, tokenizer) if template else {})})


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move to `folder` once all are written, so that two checkpoints never mix."""
    made = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as made:
            yield Path(made)
            for file in Path(made).iterdir():
                file.replace(folder / file.name)
    except (InstructError, OSError) as error:
        reason = f"{folder}: cannot be written ({error.strerror})" if isinstance(error, OSError) else str(error)
        reason = reason.replace(made, str(folder)) if made else reason
        raise CheckpointError(f"{reason}; the checkpoint that was there before is untouched") from error


def load_checkpoint(
    folder: Path, device: torch.device, read_tokenizer: Callable[[Path, int], Tokenizer] = load_tokenizer
) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a checkpoint folder, in evaluation mode."""
    config = read_config(folder / "config.json")
    tokenizer = read_tokenizer(folder / "tokenizer.json", config.eos_token_id)
    check_vocabulary(tokenizer, config, where=str(folder))
    model = fill(empty_model(config), safetensors_weights(weight_files(folder)), where=str(folder))
    return model.to(device).eval(), tokenizer


def check_vocabulary(tokenizer: Tokenizer, config: Config, *, where: str) -> None:
    """Raise CheckpointError if the tokenizer has tokens without a row in the model."""
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{where}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}; "
            "they belong to different models"
        )

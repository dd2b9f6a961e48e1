"""A model's shape from the config.json of a checkpoint; refuses settings that would make it a different model.

This module knows every key: as part of the shape, as a variant with one supported value, or as one without effect.
It refuses any other key, because an overlooked setting would silently make a different model.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from instruct.core.errors import CheckpointError, DataError, ParamsError
from instruct.core.files import read_json
from instruct.core.params import build, describe
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig, RopeScaling

Config = GPT2Config | LlamaConfig
# What a config.json may say beside the shape, ours last; None if transformers takes absence for ours.
_LLAMA: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": (None, "silu"),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "rope_interleaved": (None, False),
    "rope_type": (None, "default"),
    "use_sliding_window": (None, False),
    "use_mrope": (None, False),
    "partial_rotary_factor": (None, 1.0),
}
_VARIANTS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "gpt2": {
        "tie_word_embeddings": (None, True),
        "activation_function": (None, "gelu_pytorch_tanh", "gelu_new"),
        "scale_attn_weights": (None, True),
        "scale_attn_by_inverse_layer_idx": (None, False),
        "add_cross_attention": (None, False),
    },
    "llama": _LLAMA,
    "qwen2": {**_LLAMA, "attention_bias": (None, True)},
    "qwen3": _LLAMA,
}
_LLAMA_KEYS = {"head_dim", "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings", "layer_types"}
_SHAPES = {
    "gpt2": {field.name for field in fields(GPT2Config)},
    **{name: {field.name for field in fields(LlamaConfig)} for name in ("llama", "qwen2", "qwen3")},
}
# Keys that do not change a model's answers: its origin, and how it is trained, decoded or stored.
_HARMLESS = {
    "architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "use_cache", "initializer_range",
    "bos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "attention_dropout", "embd_pdrop",
    "resid_pdrop", "attn_pdrop", "n_ctx", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj", "reorder_and_upcast_attn", "task_specific_params", "id2label", "label2id",
    "problem_type", "finetuning_task", "tokenizer_class", "output_attentions", "output_hidden_states", "return_dict",
    "return_dict_in_generate", "torchscript", "use_bfloat16", "tf_legacy_loss", "chunk_size_feed_forward",
    "is_encoder_decoder", "is_decoder", "pretraining_tp", "max_window_layers", "is_llama_config",
    "transformers.js_config", "unsloth_fixed", "unsloth_version", "gradient_checkpointing", "do_sample",
    "temperature", "top_k", "top_p", "max_length", "min_length", "num_beams", "repetition_penalty",
}  # fmt: skip
_SLIDING = "sliding_window"  # of Qwen, which has it beside use_sliding_window: false


def read_config(path: Path, *, eos_token_id: int | None = None) -> Config:
    """A model's shape from a config.json; `eos_token_id` replaces that of the file.

    Raises CheckpointError for an unsupported family, variant or key.
    """
    values = read_object(path)
    family = str(values.get("model_type"))
    if family not in _VARIANTS:
        known = ", ".join(_VARIANTS)
        raise CheckpointError(f'{path}: model_type is "{family}"; only {known} can be loaded')
    if eos_token_id is not None:
        values["eos_token_id"] = eos_token_id
    try:
        config = _gpt2_config(values, path) if family == "gpt2" else _llama_config(values, path)
    except (ParamsError, CheckpointError) as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    if not 0 <= config.eos_token_id < config.vocab_size:
        raise CheckpointError(f"{path}: eos_token_id is {config.eos_token_id}, vocab_size only {config.vocab_size}")
    _check_variants(values, config, path)
    return config


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint; raises CheckpointError for anything else."""
    try:
        values = read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must be a JSON object")
    return values


def _gpt2_config(values: Mapping[str, Any], path: Path) -> GPT2Config:
    shape = _given(values, sorted(_SHAPES["gpt2"]), path)
    config = build(GPT2Config, shape, where=str(path))
    if values.get("n_inner") not in (None, 4 * config.n_embd):
        raise _variant("n_inner", values["n_inner"], 4 * config.n_embd)
    return config


def _llama_config(values: Mapping[str, Any], path: Path) -> LlamaConfig:
    theta, scaling = _rope(values, path)
    own = {"family": values["model_type"], "rope_theta": theta, "tied": values.get("tie_word_embeddings", "absent")}
    if own["tied"] not in (True, False):
        raise _variant("tie_word_embeddings", own["tied"], "true and false")
    head = values.get("head_dim")
    if head is None and values["model_type"] == "qwen3":
        raise CheckpointError("head_dim is missing; add it")  # transformers takes 128 for it
    if head is not None:
        if type(head) is not int or head < 1:
            raise CheckpointError(f"head_dim must be a whole number from 1, is {describe(head)}")
        own["head_dim"] = head
    names = sorted(_SHAPES["llama"] - {"family", "rope_theta", "rope_scaling", "tied", "head_dim"})
    config = build(LlamaConfig, {**_given(values, names, path), **own}, where=str(path))
    return LlamaConfig(**{**vars(config), "rope_scaling": scaling})


def _given(values: Mapping[str, Any], names: list[str], path: Path) -> dict[str, Any]:
    """Refuse missing keys: the defaults of our config classes belong to one model, and transformers' differ."""
    missing = [name for name in names if name not in values]
    if missing:
        raise CheckpointError(f"{path}: {missing[0]} is missing; add it")
    return {name: values[name] for name in names}


def _rope(values: Mapping[str, Any], path: Path) -> tuple[Any, RopeScaling | None]:
    """The rotary base and scaling, from the keys of transformers 5 or of earlier versions."""
    given = {name: values[name] for name in ("rope_scaling", "rope_parameters") if values.get(name) not in (None, {})}
    rope = dict(next(iter(given.values()), {})) if all(isinstance(one, dict) for one in given.values()) else None
    name = next(iter(given), "rope_scaling")
    if rope is None or len(given) == 2:
        raise _variant(name, values[name], "one of rope_scaling and rope_parameters")
    theta = rope.pop("rope_theta", values.get("rope_theta"))
    if theta is None:
        raise CheckpointError(f"{path}: rope_theta is missing; add it")
    kinds = {rope.pop(key) for key in ("rope_type", "type") if isinstance(rope.get(key), str)} or {"default"}
    if rope.get("partial_rotary_factor") == 1:
        rope.pop("partial_rotary_factor")
    if kinds == {"llama3"}:
        return theta, build(RopeScaling, rope, where=f"{path}: {name}")
    if kinds != {"default"} or rope:
        raise _variant(name, values[name], "rope_type default and llama3")
    return theta, None


def _check_variants(values: Mapping[str, Any], config: Config, path: Path) -> None:
    family = values["model_type"]
    for key, allowed in _VARIANTS[family].items():
        if values.get(key) not in allowed:
            raise CheckpointError(f"{path}: {_variant(key, values.get(key, 'absent'), allowed[-1])}")
    known = _VARIANTS[family].keys() | _SHAPES[family] | _HARMLESS
    known |= {"n_inner"} if family == "gpt2" else _LLAMA_KEYS
    known |= {_SLIDING} if family in ("qwen2", "qwen3") else set()
    for key, value in values.items():
        if key not in known and value is not None and not key.startswith("_"):
            raise CheckpointError(
                f'{path}: "{key}" is a setting that is not supported; take it out if the model is the same without it'
            )
    kinds = values.get("layer_types") or []
    if isinstance(config, LlamaConfig) and kinds not in ([], ["full_attention"] * config.num_hidden_layers):
        raise CheckpointError(f"{path}: {_variant('layer_types', kinds, 'full_attention')}")


def _variant(key: str, given: Any, ours: Any) -> CheckpointError:
    return CheckpointError(f"{key} is {str(given)[:100]}, a variant that cannot be loaded; only {ours} can")

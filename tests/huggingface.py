"""Small random models of transformers, and the way from one of its folders to a model of ours."""

from pathlib import Path

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from instruct.model.checkpoint import Model, empty_model, fill, safetensors_weights, weight_files
from instruct.model.config_file import read_config

VOCABULARY = 97


def random_gpt2(**shape: float) -> GPT2LMHeadModel:
    shape = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 4, **shape}
    config = GPT2Config(**shape, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return _scrambled(GPT2LMHeadModel(config))


def random_llama(**shape: object) -> LlamaForCausalLM:
    return _scrambled(LlamaForCausalLM(LlamaConfig(**_llama_shape(shape))))


def random_qwen2(**shape: object) -> Qwen2ForCausalLM:
    return _scrambled(Qwen2ForCausalLM(Qwen2Config(**_llama_shape(shape))))


def random_qwen3(**shape: object) -> Qwen3ForCausalLM:
    return _scrambled(Qwen3ForCausalLM(Qwen3Config(**_llama_shape({"head_dim": 10, **shape}))))


def _llama_shape(shape: dict[str, object]) -> dict[str, object]:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY}
    return {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": True, **sizes, **heads, **shape}


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
# Each way in which a family can differ from SmolLM2's, on at least once.
VARIANTS = {
    "llama 3": lambda: random_llama(rope_parameters=LLAMA3, tie_word_embeddings=False, num_key_value_heads=1),
    "llama 3 tied": lambda: random_llama(rope_parameters=LLAMA3, head_dim=8),
    "untied": lambda: random_llama(tie_word_embeddings=False),
    "qwen2": random_qwen2,
    "qwen2 untied": lambda: random_qwen2(tie_word_embeddings=False, rms_norm_eps=1e-3),
    "qwen3": random_qwen3,
    "qwen3 untied": lambda: random_qwen3(tie_word_embeddings=False, head_dim=4, rms_norm_eps=0.05),
}


def _scrambled(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight drawn anew, norms and biases too, so that none can be forgotten unnoticed."""
    generator = torch.Generator().manual_seed(123)
    for weight in model.parameters():
        nn.init.normal_(weight, mean=0.1 if weight.ndim == 1 else 0.0, std=0.2, generator=generator)
    return model.eval()


def as_ours(theirs: PreTrainedModel, folder: Path, **saving: object) -> Model:
    theirs.save_pretrained(folder, **saving)
    return load_folder(folder)


def load_folder(folder: Path) -> Model:
    config = read_config(folder / "config.json")
    return fill(empty_model(config), safetensors_weights(weight_files(folder)), where=str(folder)).eval()


def random_ids(*shape: int, below: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(7))

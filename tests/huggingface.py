"""Small random models of transformers, and the way from one of its folders to a model of ours."""

from pathlib import Path

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from instruct.model.checkpoint import Model, empty_model, fill, read_config, safetensors_weights, weight_files

VOCABULARY = 97


def random_gpt2(**shape: int) -> GPT2LMHeadModel:
    shape = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 4, **shape}
    config = GPT2Config(**shape, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return _scrambled(GPT2LMHeadModel(config))


def random_llama(**shape: float) -> LlamaForCausalLM:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY}
    config = LlamaConfig(**{**sizes, **heads, **shape}, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True)
    return _scrambled(LlamaForCausalLM(config))


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

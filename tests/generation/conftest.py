import pytest
import torch
from transformers import AutoModelForCausalLM

from instruct.core.runtime import Runtime
from instruct.generation.settings import GenerateParams
from instruct.model.checkpoint import random_model, save_checkpoint
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig
from instruct.text.tokenizer import gpt2_tokenizer

GPT2_SMALL = GPT2Config(vocab_size=50257, n_positions=256, n_embd=128, n_layer=2, n_head=2)
LLAMA_SMALL = LlamaConfig(
    vocab_size=50257,
    max_position_embeddings=256,
    hidden_size=192,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    eos_token_id=50256,
)
GENERATE = GenerateParams(
    max_new_tokens=12,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    num_samples=1,
    max_repeats=0,
    over_long="raise",
    weights="fp32",
    batch_size=64,
    cache_tokens=32768,
    seed=7,
)


# For what does not depend on the family: both run with -m slow.
one_family = pytest.mark.parametrize("small", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)], indirect=True)


def make_model(config, seed):
    """A random model whose answers differ from prompt to prompt."""
    model = random_model(config, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight *= 8
    return model.eval()


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def small(request):
    """A random model, with heads of 64 as all backbones have, whose answers differ from prompt to prompt."""
    return make_model(GPT2_SMALL if request.param == "gpt2" else LLAMA_SMALL, seed=1)


@pytest.fixture(scope="session")
def tokenizer():
    return gpt2_tokenizer()


@pytest.fixture(scope="session")
def runtime():
    return Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture
def params():
    return GENERATE


@pytest.fixture
def as_transformers(tmp_path):
    """The same weights in transformers' own implementation."""

    def load(model, tokenizer):
        save_checkpoint(model, tokenizer, tmp_path)
        return AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()

    return load


@pytest.fixture(autouse=True)
def each_on_one_thread(one_thread):
    """Models so small that a second thread only waits for the first."""

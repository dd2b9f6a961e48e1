import builtins

import pytest
import torch
from small_training import FAMILIES, lora_params, loss_and_gradients, make_batch, random_examples, small_model
from torch import nn

from instruct.core.errors import ParamsError
from instruct.model.lora import LoraLinear, add_lora
from instruct.training.quantised import quantise_frozen

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning:bitsandbytes"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
families = pytest.mark.parametrize("family", FAMILIES)
bits = pytest.mark.parametrize(("base", "close"), [("int8", 0.99), ("nf4", 0.8)])


def adapted(family, base):
    model = small_model(family)
    add_lora(model, lora_params(r=2), seed=0)
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            nn.init.normal_(layer.lora_B, std=0.1, generator=torch.Generator().manual_seed(5))
    quantise_frozen(model, base)
    return model


@families
@bits
def test_frozen_base_is_rounded_and_the_adapters_gradient_points_the_same_way(family, base, close):
    batch = make_batch(random_examples(6, seed=1), "packed")
    exact_loss, exact = loss_and_gradients(adapted(family, "fp32"), batch)
    loss, gradients = loss_and_gradients(adapted(family, base), batch)
    assert loss == pytest.approx(exact_loss, rel=0.05) and loss != exact_loss
    trained = [name for name, gradient in exact.items() if gradient is not None]
    assert trained and all("lora_" in name for name in trained)
    assert [name for name, gradient in gradients.items() if gradient is not None] == trained
    ours, theirs = (torch.cat([one[name].flatten() for name in trained]) for one in (gradients, exact))
    assert torch.cosine_similarity(ours, theirs, dim=0) > close


@families
@bits
def test_every_frozen_layer_of_the_blocks_takes_a_byte_or_less_a_weight(family, base, close):
    model = adapted(family, base)
    linear = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
    assert linear
    for layer in linear:
        bytes_held = layer.weight.numel() * layer.weight.element_size()
        assert bytes_held == layer.in_features * layer.out_features // (2 if base == "nf4" else 1)
        assert not layer.weight.requires_grad
    assert model.embedding.weight.dtype is torch.float32


# Dettmers et al., 2023, appendix E
NF4 = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
)  # fmt: skip


def test_nf4_is_the_table_of_qlora():
    """bitsandbytes knows another one with 4 bits, which rounds a normal weight more coarsely."""
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = adapted("gpt2", "nf4").blocks[0].attn.c_attn.base.weight
    blocks = functional.dequantize_4bit(weight.data, weight.quant_state).float().view(-1, 64)
    levels = blocks / blocks.abs().amax(1, keepdim=True)
    assert (levels[..., None] - torch.tensor(NF4)).abs().amin(-1).max() < 1e-3


def test_missing_library_is_one_line_with_the_remedy(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("bitsandbytes"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ParamsError, match=r"train\.lora\.base is nf4, which needs the package bitsandbytes; run"):
        quantise_frozen(small_model("gpt2"), "nf4")

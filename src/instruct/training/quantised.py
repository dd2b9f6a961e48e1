"""Frozen linear layers in 8 or 4 bits under LoRA (QLoRA, Dettmers et al., 2023), by the library bitsandbytes.

Only training sees them: generation merges the adapter into the backbone's own weights. An adapter so learns to live
with rounding that it will not meet; `instruct compare` with a run on an fp32 base shows what that costs.
"""

from torch import nn

from instruct.core.errors import ParamsError
from instruct.model.decoder import Decoder
from instruct.model.lora import replace_module
from instruct.model.settings import Base


def quantise_frozen(model: Decoder, base: Base, section: str = "train") -> None:
    """Keep every frozen linear layer of the blocks in `base`; adapters, norms and the embedding stay fp32.

    Raises ParamsError where bitsandbytes is not installed.
    """
    if base == "fp32":
        return
    try:
        from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
    except ImportError:
        raise ParamsError(
            f"params.yaml: {section}.lora.base is {base}, which needs the package bitsandbytes; "
            "run `.venv/bin/pip install bitsandbytes`, or set it to fp32"
        ) from None
    for block in model.blocks:
        for name, layer in list(block.named_modules()):
            if not isinstance(layer, nn.Linear):
                continue
            sizes = (layer.in_features, layer.out_features, layer.bias is not None)
            smaller: nn.Module = (
                Linear4bit(*sizes, quant_type="nf4") if base == "nf4" else Linear8bitLt(*sizes, has_fp16_weights=False)
            )
            smaller.load_state_dict(layer.state_dict())
            smaller.requires_grad_(False)
            # The library rounds when the layer is put on its device.
            replace_module(block, name, smaller.to(layer.weight.device))

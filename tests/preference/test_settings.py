"""The section `prefer` of params.yaml."""

import re
from typing import Any

import pytest
from small_training import lora_params

from instruct.core.errors import ParamsError
from instruct.core.params import build
from instruct.preference.settings import PreferParams

VALUES: dict[str, Any] = {
    "methods": ["dpo"], "loss": "sigmoid", "beta": 0.1, "label_smoothing": 0.0, "sft_weight": 0.0, "epochs": 1,
    "micro_batch_size": 8, "grad_accum_steps": 1, "lr": 1e-5, "lr_floor": 0.1, "warmup_steps": 5, "weight_decay": 0.0,
    "max_grad_norm": 1.0, "batching": "packed", "max_length": 1024, "over_long": "raise", "eval_every": 20,
    "eval_pairs": 0, "patience": 0, "save_minutes": 5.0, "recompute_activations": False, "parallel": "none",
    "lora": {"r": 0, "alpha": 32.0, "dropout": 0.0, "target_modules": [], "base": "fp32"}, "seed": 123,
}  # fmt: skip


def prefer(**changes: Any) -> PreferParams:
    return build(PreferParams, {**VALUES, **changes}, where="params.yaml: prefer")


def test_settings_are_read_as_written():
    params = prefer(methods=[])
    assert params.methods == () and params.lora == lora_params(r=0, alpha=32.0) and params.beta == 0.1


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("beta", 0.0, "above 0"),
        ("beta", -0.1, "above 0"),
        ("beta", float("nan"), "above 0"),
        ("label_smoothing", 0.5, "from 0 to below 0.5"),
        ("label_smoothing", -0.1, "from 0 to below 0.5"),
        ("sft_weight", -1.0, "at least 0"),
        ("eval_pairs", -1, "at least 0"),
        ("epochs", 0, "at least 1"),
        ("lr", 0.0, "between 0 and 1"),
    ],
)
def test_value_out_of_range_is_refused_by_name_and_place(name, value, rule):
    with pytest.raises(ParamsError, match=rf"^params\.yaml: prefer\.{name} must be {rule}, is {re.escape(str(value))}"):
        prefer(**{name: value})


def test_method_is_named_once_and_known():
    with pytest.raises(ParamsError, match=r"prefer\.methods must be a list that names each method once, is dpo, dpo"):
        prefer(methods=["dpo", "dpo"])
    with pytest.raises(ParamsError, match=r"prefer\.methods\[0\] must be one of dpo"):
        prefer(methods=["ppo"])


def test_ipo_has_no_label_smoothing():
    with pytest.raises(ParamsError, match=r"prefer\.label_smoothing must be 0 where loss is ipo"):
        prefer(loss="ipo", label_smoothing=0.1)

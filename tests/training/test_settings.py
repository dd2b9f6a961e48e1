import re
from pathlib import Path

import pytest
from small_training import train_params

from instruct.core.errors import ParamsError
from instruct.core.params import load_params
from instruct.training.settings import TrainParams

PARAMS = Path(__file__).parents[2] / "params.yaml"


def test_settings_of_the_repository_are_valid():
    assert load_params("train", TrainParams, PARAMS).lr > 0


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("epochs", 0, "at least 1"),
        ("micro_batch_size", 0, "at least 1"),
        ("grad_accum_steps", -1, "at least 1"),
        ("eval_every", 0, "at least 1"),
        ("warmup_steps", -1, "at least 0"),
        ("patience", -1, "at least 0"),
        ("sample_tokens", -1, "at least 0"),
        ("save_minutes", -0.5, "at least 0"),
        ("save_minutes", float("nan"), "at least 0"),
        ("eval_records", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("lr", 0.0, "between 0 and 1"),
        ("lr", float("nan"), "between 0 and 1"),
        ("lr_floor", 1.5, "from 0 to 1, a share of lr"),
        ("lr_floor", -0.1, "from 0 to 1, a share of lr"),
        ("weight_decay", 1.0, "from 0 to below 1"),
        ("max_grad_norm", 0.0, "above 0"),
        ("prompt_loss_weight", 1.5, "from 0 to 1"),
        ("max_length", 1, "at least 2"),
    ],
)
def test_value_out_of_range_is_refused_by_name(name, value, rule):
    with pytest.raises(ParamsError, match=rf"^{name} must be {rule}.*, is {re.escape(str(value))}$"):
        train_params(**{name: value})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "batching: packed",
            "batching: paked",
            r"train\.batching must be one of packed, padded; .* did you mean packed\?",
        ),
        ("lr: 2.0e-4", "lr: fast", r'train\.lr must be a number, is the text "fast"'),
        ("parallel: none", "parallel: dp", r"train\.parallel must be one of none, ddp, fsdp; .* did you mean ddp\?"),
        ("epochs: 1", "epocs: 1", r"train\.epocs is not a setting; did you mean epochs\?"),
        ("  lora:\n", "  lora:\n    rank: 3\n", r"train\.lora\.rank is not a setting"),
        ("target_modules: []", "target_modules: c_attn", r"train\.lora\.target_modules must be a list"),
        ("r: 0 ", "r: -1 ", r"train\.lora\.r must be at least 0, is -1"),
    ],
)
def test_mistake_in_params_yaml_is_named_with_its_place(tmp_path, old, new, message):
    text = PARAMS.read_text(encoding="utf-8")
    train = text[text.index("\ntrain:") :]
    assert old in train
    (tmp_path / "params.yaml").write_text(train.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ParamsError, match=rf"params\.yaml: {message}"):
        load_params("train", TrainParams, tmp_path / "params.yaml")

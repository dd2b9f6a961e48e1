import json
import os
from pathlib import Path

import pytest
import warm
from model.test_gguf_file import FIELDS, as_llama_cpp_has_them, theirs, write

from instruct.model.checkpoint import random_model, save_checkpoint
from instruct.model.llama import LlamaConfig
from instruct.text.tokenizer import END_OF_TEXT, make_tokenizer

ROOT = Path(__file__).parents[2]
CONFIG = LlamaConfig(
    vocab_size=259, max_position_embeddings=64, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-4, rope_theta=500.0, eos_token_id=258,
)  # fmt: skip
FILES = ("config.json", "model.gguf", "model.safetensors", "tokenizer.json")


@pytest.mark.parametrize("copies", [30, pytest.param(1500, marks=pytest.mark.slow)])
def test_every_damaged_file_is_loaded_right_or_refused_in_bounded_memory(tmp_path, copies):
    tokens = [*(bytes([value]) for value in range(256)), b"th", b"the", END_OF_TEXT.encode()]
    save_checkpoint(
        random_model(CONFIG, seed=5), make_tokenizer(tokens, {END_OF_TEXT: 258}, "smollm", eos_id=258), tmp_path
    )
    (tmp_path / "tokenizer_config.json").unlink()
    write(tmp_path / "model.gguf", FIELDS, as_llama_cpp_has_them(theirs()))
    script = Path(__file__).with_name("load_damaged.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = warm.python(script, tmp_path, str(copies), cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    for name in FILES:
        assert counts[f"{name} refused"] > copies / 5
        assert counts[f"{name} refused"] + counts.get(f"{name} loaded", 0) == copies

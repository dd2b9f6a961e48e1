"""A tokenizer that was checked before is read from the user's cache, and is the same."""

import json
from pathlib import Path

import pytest
import torch
from generation.conftest import GPT2_SMALL, make_model

from instruct.core.errors import CheckpointError
from instruct.model.checkpoint import save_checkpoint
from instruct.serving import checked as keeping
from instruct.serving.checked import checked_meanwhile, checked_tokenizer
from instruct.serving.opening import open_checkpoint
from instruct.text.tokenizer import gpt2_tokenizer, make_tokenizer, save_tokenizer

ROOT = Path(__file__).parents[2]
TEXTS = [
    "Hello  world, 12 times!\n\n\tyes",
    "hel h\u00e9llo <think><bos> \u4e2d\u6587 <|endoftext|> <|im_end|>",
    "\x00\x01 \U0001f600",
]


def chat_tokenizer():
    """A small vocabulary with a token before each prompt, a written one and every kind of special one."""
    tokens = [*(bytes([value]) for value in range(256)), b"he", b"hel", b"<bos>", b"<end>", b"<think>"]
    special = {"<bos>": 258, "<end>": 259, "<think>": 260}
    return make_tokenizer(tokens, special, "qwen2", 259, begin="<bos>", written=["<think>"])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/instruct/tokenizers"


@pytest.fixture
def path(tmp_path):
    save_tokenizer(chat_tokenizer(), tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


@pytest.mark.parametrize("make", [chat_tokenizer, pytest.param(gpt2_tokenizer, marks=pytest.mark.slow)])
def test_the_kept_tokenizer_is_the_checked_one(make, tmp_path, cache, monkeypatch):
    tokenizer, path = make(), tmp_path / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    checked = checked_tokenizer(path, tokenizer.eos_id)
    monkeypatch.setattr(keeping, "load_tokenizer", None)
    kept = checked_tokenizer(path, tokenizer.eos_id)
    assert len(list(cache.iterdir())) == 1
    names = ("layout", "vocab_size", "eos_id", "begin_ids", "written", "end_of_text", "stop_ids")
    assert all(getattr(kept, name) == getattr(checked, name) == getattr(tokenizer, name) for name in names)
    for text in TEXTS:
        assert kept.encode(text) == checked.encode(text) == tokenizer.encode(text)
        assert kept.decode(kept.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_other_bytes_and_another_end_token_are_checked_again(path, cache):
    checked_tokenizer(path, 259)
    with pytest.raises(CheckpointError, match="end token 257 is missing"):
        checked_tokenizer(path, 257)
    value = json.loads(path.read_text(encoding="utf-8"))
    value["model"]["merges"].pop()
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(CheckpointError):
        checked_tokenizer(path, 259)
    assert len(list(cache.iterdir())) == 1
    path.unlink()
    with pytest.raises(CheckpointError):
        checked_tokenizer(path, 259)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"tokens": [1]}', '{"tokens": ["\u4e2d"], "special": {}}'])
def test_a_damaged_cache_is_written_again(path, cache, damage):
    checked_tokenizer(path, 259)
    (kept,) = cache.iterdir()
    before = kept.read_bytes()
    kept.write_text(damage, encoding="utf-8")
    assert checked_tokenizer(path, 259).vocab_size == 261
    assert kept.read_bytes() == before


def test_a_cache_that_cannot_be_written_costs_only_time(path, tmp_path):
    (tmp_path / "cache").touch()
    assert checked_tokenizer(path, 259).vocab_size == 261


def test_another_process_checks_a_tokenizer_once_and_leaves_what_is_wrong_to_the_opening(path, cache, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    (path.parent / "config.json").write_text('{"eos_token_id": 259}')
    with checked_meanwhile(path.parent):
        pass
    (kept,) = cache.iterdir()
    monkeypatch.setattr(keeping, "load_tokenizer", None)
    assert checked_tokenizer(path, 259).encode("hel") == chat_tokenizer().encode("hel")
    monkeypatch.setattr(keeping.subprocess, "Popen", None)
    for config in ('{"eos_token_id": 259}', "{", "[]", '{"eos_token_id": "259"}'):
        (path.parent / "config.json").write_text(config)
        with checked_meanwhile(path.parent):
            pass
    with checked_meanwhile(path.parent / "absent"):
        pass
    assert list(cache.iterdir()) == [kept]


def test_a_tokenizer_that_is_refused_meanwhile_is_refused_when_it_is_opened(path, cache, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    (path.parent / "config.json").write_text('{"eos_token_id": 257}')
    with checked_meanwhile(path.parent):
        pass
    assert not cache.exists() and capfd.readouterr() == ("", "")
    with pytest.raises(CheckpointError, match="end token 257 is missing"):
        checked_tokenizer(path, 257)


def test_a_checkpoint_opens_as_training_left_it(tmp_path):
    model = make_model(GPT2_SMALL, 5)
    save_checkpoint(model, gpt2_tokenizer(), tmp_path / "best")
    opened, tokenizer = open_checkpoint(tmp_path / "best", torch.device("cpu"))
    assert all(torch.equal(mine, model.state_dict()[name]) for name, mine in opened.state_dict().items())
    assert not opened.training and tokenizer.encode("a b") == gpt2_tokenizer().encode("a b")

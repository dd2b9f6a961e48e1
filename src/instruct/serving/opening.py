"""Opens a checkpoint; its tokenizer, whose checks take a second, is kept in the user's cache folder once checked."""

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import platformdirs
import torch

from instruct.core.errors import InstructError
from instruct.core.files import write_text
from instruct.model.checkpoint import Model, check_vocabulary, empty_model, fill, safetensors_weights, weight_files
from instruct.model.config_file import read_config
from instruct.model.lora import ADAPTER_CONFIG
from instruct.model.pretrained import load_trained
from instruct.text import tokenizer as code
from instruct.text.pieces import Layout
from instruct.text.tokenizer import Tokenizer, load_tokenizer, make_tokenizer


def open_checkpoint(folder: Path, device: torch.device) -> tuple[Model, Tokenizer]:
    """The same as `load_trained`."""
    if (folder / ADAPTER_CONFIG).exists():
        return load_trained(folder, device)
    config = read_config(folder / "config.json")
    tokenizer = checked_tokenizer(folder / "tokenizer.json", config.eos_token_id)
    check_vocabulary(tokenizer, config, where=str(folder))
    model = fill(empty_model(config), safetensors_weights(weight_files(folder)), where=str(folder))
    return model.to(device).eval(), tokenizer


def checked_tokenizer(path: Path, eos_id: int) -> Tokenizer:
    """The same as `load_tokenizer`, from the cache where this code has checked the same bytes before."""
    place = _place(path, eos_id)
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # no such file, or a damaged one
        return _restored(json.loads(place.read_text(encoding="utf-8")))
    tokenizer = load_tokenizer(path, eos_id)
    if _place(path, eos_id) == place:  # otherwise the file changed meanwhile
        with suppress(InstructError, OSError):  # a full or read-only disk costs a second next time
            write_text(place, json.dumps(_parts(tokenizer)))
    return tokenizer


def _place(path: Path, eos_id: int) -> Path:
    """Where a tokenizer is kept: by the digest of its file and of the code that checks it."""
    digest = sha256(str(eos_id).encode())
    for file in (path, *sorted(Path(code.__file__).parent.glob("*.py"))):
        if file.is_file():
            digest.update(file.read_bytes())
    return platformdirs.user_cache_path("instruct") / "tokenizers" / f"{digest.hexdigest()}.json"


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `make_tokenizer` makes it of."""
    encoding = tokenizer.encoding
    return {
        "tokens": [encoding.decode_single_token_bytes(id_).decode("latin-1") for id_ in range(tokenizer.vocab_size)],
        "special": {name: encoding.encode_single_token(name) for name in sorted(encoding.special_tokens_set)},
        "layout": vars(tokenizer.layout),
        "eos_id": tokenizer.eos_id,
        "begin": tokenizer.spell(tokenizer.begin_ids[0]) if tokenizer.begin_ids else None,
        "written": list(tokenizer.written),
    }


def _restored(parts: dict[str, Any]) -> Tokenizer:
    tokens = [token.encode("latin-1") for token in parts["tokens"]]
    return make_tokenizer(
        tokens,
        parts["special"],
        Layout(**parts["layout"]),
        parts["eos_id"],
        begin=parts["begin"],
        written=parts["written"],
    )

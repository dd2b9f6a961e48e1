"""A checkpoint's tokenizer, whose checks take a second, is kept in the user's cache folder once checked.

`python -m instruct.serving.checked TOKENIZER EOS_ID` only checks and keeps it, in a process that needs no torch.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import platformdirs

from instruct.core.errors import InstructError
from instruct.core.files import write_text
from instruct.text import tokenizer as code
from instruct.text.pieces import Layout
from instruct.text.tokenizer import Tokenizer, load_tokenizer, make_tokenizer


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


@contextmanager
def checked_meanwhile(folder: Path) -> Iterator[None]:
    """Check the tokenizer of a checkpoint in another process, if this code has not checked it before.

    It reports nothing: opening the checkpoint finds what is wrong with it.
    """
    wanted = _unchecked(folder)
    if wanted is None:
        yield
        return
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-P", "-m", __spec__.name, *wanted]
    with subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere):
        yield  # then it waits for the process


def _unchecked(folder: Path) -> tuple[str, str] | None:
    """The arguments of this module, for a tokenizer that the cache lacks."""
    path = folder / "tokenizer.json"
    try:
        eos_id = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
        return None if type(eos_id) is not int or _place(path, eos_id).exists() else (str(path), str(eos_id))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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


if __name__ == "__main__":
    with suppress(InstructError):
        checked_tokenizer(Path(sys.argv[1]), int(sys.argv[2]))

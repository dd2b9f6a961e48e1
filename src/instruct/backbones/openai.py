"""GPT-2 as OpenAI published it and as the book fetches it: converts a TensorFlow folder to a safetensors file.

The numbers are the same to the bit, and the names, order and attention masks are those of Hugging Face's copy. If the
bytes equal the pinned ones, the file is proved; if not, the new file is pinned, and a line says so.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instruct.backbones.catalog import Backbone, verify
from instruct.backbones.fetch import accept, alone, place
from instruct.backbones.pin import pin_of, write_pin
from instruct.backbones.tensorflow import INDEX, TensorFlowCheckpoint
from instruct.core.errors import BackboneError, DataError
from instruct.core.files import read_json, sha256_of

CHECKPOINT, WEIGHTS = "model.ckpt", "model.safetensors"
_DEFAULTS = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
_HPARAMS = {"vocab_size": "n_vocab", "n_positions": "n_ctx"}
_PARTS = {"g": "weight", "w": "weight", "b": "bias"}


def is_openai_folder(source: Path) -> bool:
    """Whether a folder holds a checkpoint in OpenAI's layout."""
    return (source / f"{CHECKPOINT}{INDEX}").is_file()


def take_openai(backbone: Backbone, source: Path, vocabulary: Mapping[str, str]) -> list[str]:
    """Convert an OpenAI folder to a backbone's file; returns lines that say what was done.

    `vocabulary` holds the sha256 of the two tokenizer files. Raises BackboneError for another model's folder.
    """
    if backbone.family != "gpt2" or [file.name for file in backbone.files] != [WEIGHTS]:
        raise BackboneError(
            f"{source}: holds OpenAI's GPT-2, and {backbone.name} is not a GPT-2 with one {WEIGHTS}; name a GPT-2"
        )
    shape = {name: backbone.config.get(name, value) for name, value in _DEFAULTS.items()}
    _check_folder(source, shape, vocabulary, backbone.name)
    [file] = backbone.files
    path = place(backbone, file)
    part = path.with_name(path.name + ".copy")
    with alone(path):
        _convert(TensorFlowCheckpoint(source / CHECKPOINT), shape, source, part)
        if file.sha256 is None or verify(file, part):
            pinned = pin_of(file, part)
            accept(pinned, part, path)
            reason = "the same numbers as the file from Hugging Face, but other bytes: do not compare runs on the two"
            return [
                write_pin(backbone, pinned),
                f"{backbone.name}: made from {source}; {reason} as one backbone",
            ]
        accept(file, part, path)
    return [f"{backbone.name}: made from {source}, the bytes that the table pins"]


def _check_folder(source: Path, shape: Mapping[str, Any], vocabulary: Mapping[str, str], name: str) -> None:
    try:
        given = read_json(source / "hparams.json")
        digests = {file: sha256_of(source / file) for file in vocabulary}
    except DataError as error:
        raise BackboneError(str(error)) from None
    for key, wanted in shape.items():
        theirs = _HPARAMS.get(key, key)
        found = given.get(theirs) if isinstance(given, dict) else None
        if found != wanted:
            raise BackboneError(
                f"{source / 'hparams.json'}: {theirs} is {found}, {name} has {wanted}; give the folder of {name}"
            )
    for file, digest in digests.items():
        if digest != vocabulary[file]:
            raise BackboneError(f"{source / file}: its sha256 is not that of GPT-2's file; it belongs to another model")


def _convert(checkpoint: TensorFlowCheckpoint, shape: Mapping[str, int], source: Path, part: Path) -> None:
    """Write the tensors in name order, one at a time."""
    names = {_our_name(name): name for name in checkpoint.variables}
    wanted = dict(_shapes(shape))
    problems = [
        f"the variable {theirs} has no place in it" for ours, theirs in sorted(names.items()) if ours not in wanted
    ]
    lacking = (name for name in sorted(wanted) if name not in names and not name.endswith(".attn.bias"))  # the masks
    problems += [f"the tensor {name} is missing" for name in lacking]
    for ours, theirs in sorted(names.items()):
        if ours in wanted and _squeezed(found := checkpoint.variables[theirs].shape) != wanted[ours]:
            problems.append(f"the variable {theirs} has the shape {found}")
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise BackboneError(f"{source}: is not the GPT-2 that the table describes: {problems[0]}{more}")
    try:
        with part.open("wb") as target:
            target.write(_header(wanted))
            for name in sorted(wanted):
                target.write(checkpoint.content(names[name]) if name in names else _mask(shape["n_positions"]))
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BackboneError(f"{part}: cannot be written ({error.strerror}); free some space") from None
    except BackboneError:
        part.unlink(missing_ok=True)
        raise


def _our_name(theirs: str) -> str:
    """`model/h0/attn/c_attn/w` → `h.0.attn.c_attn.weight`."""
    *path, last = theirs.removeprefix("model/").split("/")
    if not path:
        return f"{last}.weight"
    return ".".join([re.sub(r"^h(\d+)$", r"h.\1", path[0]), *path[1:], _PARTS.get(last, last)])


def _shapes(shape: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of Hugging Face's copy, with its shape."""
    width, context = shape["n_embd"], shape["n_positions"]
    yield from {"wte.weight": (shape["vocab_size"], width), "wpe.weight": (context, width)}.items()
    for layer in range(shape["n_layer"]):
        yield f"h.{layer}.attn.bias", (1, 1, context, context)
        for norm in ("ln_1", "ln_2"):
            yield from {f"h.{layer}.{norm}.weight": (width,), f"h.{layer}.{norm}.bias": (width,)}.items()
        for part, into, out in (
            ("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)
        ):  # fmt: skip
            yield f"h.{layer}.{part}.weight", (into * width, out * width)
            yield f"h.{layer}.{part}.bias", (out * width,)
    yield from {"ln_f.weight": (width,), "ln_f.bias": (width,)}.items()


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """OpenAI's matrices are convolutions of width 1: (1, in, out)."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in sorted(shapes):
        end = begin + 4 * int(np.prod(shapes[name], dtype=np.int64))
        entries[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text


def _mask(context: int) -> bytes:
    return np.tril(np.ones((context, context), dtype="<f4")).tobytes()

"""Loads damaged copies of the files of a folder: `python load_damaged.py FOLDER COPIES`.

A program of its own, so that its memory and its processor time are bounded: a file that asks for more kills it. Each
copy must be refused by an InstructError, or loaded with the weights that the formats' own readers find in it.
"""

import json
import re
import resource
import struct
import sys
from collections import Counter
from pathlib import Path
from random import Random

import gguf
import numpy as np
import torch
from safetensors.torch import load as load_safetensors

from instruct.core.errors import InstructError
from instruct.model.checkpoint import empty_model, fill, load_checkpoint
from instruct.model.gguf_file import GGUFFile

EXTRA_MEMORY, PROCESSOR_SECONDS = 1 << 30, 400
CPU = torch.device("cpu")
NUMBERS = (0, 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 32, 2**64 - 1)
WORDS = ("-1", "0", "2.0", "1e400", "true", "null", "[]", "{}", '"x"', "4611686018427387904", "9" * 400, "NaN", "[[")
BINARY_HEADER = 3000


def bound() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_MEMORY, used + EXTRA_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))


def damage_bytes(data: bytes, random: Random) -> bytes:
    """One fault, most often in the first bytes, where headers are."""
    place = random.randrange(min(len(data), BINARY_HEADER) if random.random() < 0.9 else len(data))
    kind = random.randrange(6)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + data[place + random.randint(1, 40) :]
    if kind == 2:
        return data[:place] + data[max(0, place - random.randint(1, 40)) :]
    if kind == 3:
        number = struct.pack("<Q", random.choice(NUMBERS))[: random.choice((4, 8))]
        return data[:place] + number + data[place + len(number) :]
    changed = bytearray(data)
    changed[place] ^= 1 << random.randrange(8) if kind == 4 else random.randrange(1, 256)
    return bytes(changed)


def damage_text(data: bytes, random: Random) -> bytes:
    """Another value in the place of a number or a text, or a fault in the bytes."""
    if random.random() < 0.3:
        return damage_bytes(data, random)
    values = list(re.finditer(rb'(?<=[:\[, ])(?:-?\d[\d.e+-]*|"(?:[^"\\]|\\.)*"|true|false|null)(?=[,\]}\s])', data))
    first = values[:120] if random.random() < 0.7 else values
    chosen = random.choice(first)
    return data[: chosen.start()] + random.choice(WORDS).encode() + data[chosen.end() :]


def check_gguf(folder: Path, name: str) -> None:
    path = folder / name
    file = GGUFFile(path)
    seen = {key: value.numpy() for key, value in file.weights()}
    fill(empty_model(file.config()), file.weights(), where=name)
    file.tokenizer()
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for stored in ("token_embd.weight", "output_norm.weight", "blk.1.ffn_down.weight"):
        ours = seen[file._name(stored)[0]]
        assert np.array_equal(ours, gguf.dequantize(theirs[stored].data, theirs[stored].tensor_type))


def check_folder(folder: Path, name: str) -> None:
    model, tokenizer = load_checkpoint(folder, CPU)
    assert tokenizer.decode(tokenizer.encode("the other 12")) == "the other 12"
    theirs = load_safetensors((folder / "model.safetensors").read_bytes())
    for key, weight in model.state_dict().items():
        stored = theirs.get(model.prefix + key, theirs.get(key))
        assert torch.equal(weight, stored.t().float() if key.endswith(model.transposed) else stored.float())


def outcome(folder: Path, name: str) -> str:
    try:
        (check_gguf if name.endswith(".gguf") else check_folder)(folder, name)
    except InstructError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
        return "refused"
    return "loaded"


def main(folder: Path, copies: int) -> None:
    torch.set_num_threads(1)
    bound()
    counts: Counter[str] = Counter()
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        damage = damage_text if path.suffix == ".json" else damage_bytes
        for number in range(copies):
            changed = damage(whole, Random(f"{path.name} {number}"))
            path.write_bytes(changed)
            try:
                counts[f"{path.name} {outcome(folder, path.name)}"] += 1
            except BaseException:
                print(f"{path.name}, copy {number}", file=sys.stderr)
                raise
        path.write_bytes(whole)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

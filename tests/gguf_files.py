"""GGUF files written by the package gguf, and read by our reader, for tests."""

from pathlib import Path

import gguf
import numpy as np

from instruct.model.checkpoint import empty_model, fill
from instruct.model.gguf_file import GGUFFile


def write(path: Path, fields: dict[str, object], tensors: dict[str, np.ndarray], kind=None) -> Path:
    """A GGUF file; matrices but for positions are stored quantised where `kind` says how."""
    writer = gguf.GGUFWriter(path, str(fields.get("general.architecture", "llama")))
    if "general.architecture" not in fields:
        del writer.kv_data[0]["general.architecture"]
    add = {
        str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array,
        bool: writer.add_bool,
    }  # fmt: skip
    for name, value in fields.items():
        if name != "general.architecture":
            add[type(value)](name, value)
    for name, values in tensors.items():
        if kind is not None and values.ndim == 2 and name != "position_embd.weight":
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(path: Path):
    file = GGUFFile(path)
    return fill(empty_model(file.config()), file.weights(), where=str(path)).eval()

"""GGUF files for llama.cpp and programs built on it: weights, tokenizer, chat template, stop tokens, provenance."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import gguf
import numpy as np
from torch import Tensor

from instruct.core.errors import CheckpointError
from instruct.core.files import read_json
from instruct.exporting.gguf_names import family_of, shape_fields, stored_tensors
from instruct.exporting.source import Source
from instruct.text.jinja import jinja_template
from instruct.text.pieces import LAYOUTS
from instruct.text.tokenizer import Tokenizer, save_tokenizer, spelled

GGUFType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]
TYPES: Mapping[GGUFType, tuple[gguf.GGMLQuantizationType, gguf.LlamaFileType]] = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
_PRE = {"gpt2": "gpt-2", "smollm": "smollm", "llama3": "llama-bpe", "qwen2": "qwen2"}
"""Our pre-tokenizers by llama.cpp's names; with a wrong name it silently reads other tokens."""
_ALWAYS_F32 = ("position_embd.weight",)
_NORMAL, _CONTROL, _WRITTEN = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED


def write_gguf(source: Source, path: Path, kind: GGUFType, *, name: str, about: Mapping[str, str]) -> None:
    """Write the model; `about` holds our own fields, such as the result of the check.

    Raises CheckpointError before anything is written if the shapes do not allow the type.
    """
    check_shapes(source, kind)
    config = source.model.config.to_huggingface()
    family = family_of(config)
    writer = gguf.GGUFWriter(path, family.architecture)
    try:
        _add_general(writer, source, kind, name, about)
        for key, value in shape_fields(family, config).items():
            writer.add_uint32(key, value) if isinstance(value, int) else writer.add_float32(key, value)
        _add_tokenizer(writer, source)
        for stored, weight in stored_tensors(source.model):
            own = stored_kind(stored, weight, kind)
            values = np.ascontiguousarray(weight.numpy())
            writer.add_tensor(stored, gguf.quantize(values, own), raw_dtype=own)
        write_out(writer)
    finally:
        writer.close()


def write_out(writer: gguf.GGUFWriter) -> None:
    """Write all added fields and tensors."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()


def stored_kind(stored: str, weight: Tensor, kind: GGUFType) -> gguf.GGMLQuantizationType:
    """The stored type of a tensor: norms, biases and positions stay F32."""
    if weight.ndim < 2 or stored in _ALWAYS_F32:
        return gguf.GGMLQuantizationType.F32
    return TYPES[kind][0]


def check_shapes(source: Source, kind: GGUFType) -> None:
    """Raise CheckpointError for a type whose blocks do not divide a matrix's rows."""
    for stored, weight in stored_tensors(source.model):
        own = stored_kind(stored, weight, kind)
        block = gguf.GGML_QUANT_SIZES[own][0]
        if weight.shape[-1] % block:
            raise CheckpointError(
                f"{source.folder}: --type {kind} stores blocks of {block} numbers, but the rows of {stored} have "
                f"{weight.shape[-1]}; use f16, bf16 or f32"
            )


def size_of(source: Source, kind: GGUFType) -> int:
    """The approximate size of the file in bytes."""
    total = 8_000_000  # the tokenizer
    for stored, weight in stored_tensors(source.model):
        block, size = gguf.GGML_QUANT_SIZES[stored_kind(stored, weight, kind)]
        total += weight.numel() * size // block
    return total


def _add_general(writer: gguf.GGUFWriter, source: Source, kind: GGUFType, name: str, about: Mapping[str, str]) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(TYPES[kind][1])
    writer.add_sampling_temp(0.0)  # llama.cpp's own default is 0.8
    if kind.startswith("q"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if source.origin.licence:
        writer.add_license(source.origin.licence)
    if source.origin.base:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, source.origin.base)
        writer.add_base_model_description(0, source.origin.base_about)
    for key, value in about.items():
        if value:
            writer.add_string(f"instruct.{key}", value)


def _add_tokenizer(writer: gguf.GGUFWriter, source: Source) -> None:
    tokens, types = spelled_tokens(source.tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_of(source.tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(merges_of(source.tokenizer)))
    writer.add_eos_token_id(source.tokenizer.eos_id)
    writer.add_pad_token_id(source.tokenizer.encoding.encode_single_token(source.tokenizer.end_of_text))
    for id_ in source.tokenizer.begin_ids:
        writer.add_bos_token_id(id_)
    writer.add_add_bos_token(bool(source.tokenizer.begin_ids))
    writer.add_chat_template(jinja_template(source.template, source.tokenizer))


def _pre_of(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for the pre-tokenizer; raises CheckpointError if it has none."""
    for name, layout in LAYOUTS.items():
        if layout == tokenizer.layout:
            return _PRE[name]
    raise CheckpointError("GGUF has no name for this tokenizer's pre-tokenizer; export hf, onnx or torch")


def spelled_tokens(tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """Every token in the spelling of vocabulary files, and its type; llama.cpp prints nothing for a control token."""
    special = {
        tokenizer.encoding.encode_single_token(name): _WRITTEN if name in tokenizer.written else _CONTROL
        for name in tokenizer.encoding.special_tokens_set
    }
    tokens: list[str] = []
    types: list[int] = []
    for id_ in range(tokenizer.vocab_size):
        token = tokenizer.encoding.decode_single_token_bytes(id_)
        tokens.append(token.decode() if id_ in special else spelled(token))
        types.append(special.get(id_, _NORMAL))
    return tokens, types


def merges_of(tokenizer: Tokenizer) -> Iterator[str]:
    """The merges as "left right", in the order of the checkpoint's tokenizer.json."""
    with TemporaryDirectory(prefix="instruct-merges-") as folder:
        save_tokenizer(tokenizer, Path(folder) / "tokenizer.json")
        merges = read_json(Path(folder) / "tokenizer.json")["model"]["merges"]
    yield from (" ".join(pair) for pair in merges)

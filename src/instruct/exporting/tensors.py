"""`instruct export onnx` and `instruct export torch`: the model as a graph, with the files a program needs."""

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from instruct.core.files import write_json
from instruct.exporting.export import Export
from instruct.exporting.program import Program, cache_shape, tensor_names, trace, traced_inputs
from instruct.exporting.running import Runner
from instruct.exporting.source import Source
from instruct.model.checkpoint import Model
from instruct.text.tokenizer import save_tokenizer

OPSET = 20
ONNX, PT2, TORCHSCRIPT = "model.onnx", "model.pt2", "model.ts"
DEPRECATED = "torch has deprecated TorchScript and no longer fixes it; use .pt2 (without --legacy) if you can"


def onnx_export(source: Source, *, cache: bool, int8: bool) -> Export:
    """ONNX for onnxruntime, weights in external data; `int8` quantises matrices, and activations dynamically."""
    needs = ("onnx", "onnxscript", "onnxruntime") if int8 else ("onnx", "onnxscript")
    data = "in the model file" if int8 else f"in {ONNX}.data, which must stay beside it"

    def write(folder: Path) -> list[str]:
        _write_onnx(source.model, folder / ONNX, cache=cache, int8=int8)
        _write_beside(source, folder)
        return [f"opset {OPSET}; weights {data}"]

    return Export(
        kind="onnx",
        settings={"kv_cache": cache, "int8": int8},
        write=write,
        runner=lambda folder: _runner("onnx", source, folder / ONNX, cache=cache),
        bytes_needed=_bytes_of(source.model) * 2,
        needs=needs,
        about={"opset": OPSET, "external_data": not int8, **_names(source.model, cache=cache)},
    )


def torch_export(source: Source, *, cache: bool, legacy: bool) -> Export:
    """A program of torch.export (.pt2), or with `legacy` TorchScript."""
    name = TORCHSCRIPT if legacy else PT2

    def write(folder: Path) -> list[str]:
        write_script(source.model, folder / name, cache=cache) if legacy else write_program(
            source.model, folder / name, cache=cache
        )
        _write_beside(source, folder)
        return [DEPRECATED] if legacy else [f"load it with torch.export.load, torch {torch.__version__} or later"]

    return Export(
        kind="torch",
        settings={"kv_cache": cache, "legacy": legacy},
        write=write,
        runner=lambda folder: _runner("torchscript" if legacy else "pt2", source, folder / name, cache=cache),
        bytes_needed=_bytes_of(source.model) * 2,
        about=_names(source.model, cache=cache),
    )


def write_program(model: Model, path: Path, *, cache: bool) -> None:
    """Write the .pt2 file."""
    torch.export.save(trace(copy.deepcopy(model), cache=cache), path)


def write_script(model: Model, path: Path, *, cache: bool) -> None:
    """Write the TorchScript file."""
    program = Program(copy.deepcopy(model), cache=cache)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the deprecation, which we report ourselves
        torch.jit.trace(program, traced_inputs(model, cache=cache), check_trace=False).save(str(path))


def _write_onnx(model: Model, path: Path, *, cache: bool, int8: bool) -> None:
    import onnx

    whole = path.with_name("float32.onnx") if int8 else path
    inputs, outputs = tensor_names(model, cache=cache)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # other libraries' ops
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            trace(copy.deepcopy(model), cache=cache), (), whole, input_names=inputs, output_names=outputs,
            opset_version=OPSET, external_data=True, dynamo=True, verbose=False,
        )  # fmt: skip
    graph = onnx.load(whole, load_external_data=False)
    _name_sizes(graph)
    onnx.save(graph, whole)
    if int8:
        _quantise(whole, path)


def _quantise(whole: Path, path: Path) -> None:
    """Matrices in 8 bits; the files of the float32 graph are removed."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # its advice to preprocess, which torch's exporter did
    try:
        quantize_dynamic(whole, path, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)
    for file in (whole, whole.with_name(f"{whole.name}.data")):
        file.unlink()


def _name_sizes(graph: Any) -> None:
    """Give the variable sizes readable names instead of torch's symbols."""
    words = {"logits": ("batch", "new"), "attention_mask": ("batch", "all")}
    for one in (*graph.graph.input, *graph.graph.output):
        past = "past" if one.name.startswith("past") else "all"
        names = ("batch", "", past, "") if "." in one.name else words.get(one.name, ("batch", "new"))
        for size, name in zip(one.type.tensor_type.shape.dim, names, strict=False):
            if name:
                size.dim_param = name
    del graph.graph.value_info[:]


def _write_beside(source: Source, folder: Path) -> None:
    """The tokenizer, the prompt template and the tokens that end an answer."""
    save_tokenizer(source.tokenizer, folder / "tokenizer.json")
    template = source.template
    write_json(
        folder / "prompt.json",
        {
            "prompt": template.render("{instruction}"),
            "prompt_with_input": template.render("{instruction}", "{input}"),
            "stop_strings": list(template.stop_strings),
            "stop_token_ids": sorted(source.tokenizer.stop_ids),
        },
    )


def _names(model: Model, *, cache: bool) -> dict[str, Any]:
    inputs, outputs = tensor_names(model, cache=cache)
    return {"inputs": inputs, "outputs": outputs, "cache": cache_shape(model) if cache else None}


def _runner(program: str, source: Source, path: Path, *, cache: bool) -> Runner:
    return Runner(
        script="graph",
        needs=("onnxruntime", "tokenizers") if program == "onnx" else ("tokenizers",),
        path=path,
        options={"program": program, "cache": cache_shape(source.model) if cache else None},
        how="prompts by prompt.json and tokenizer.json, chats as tokens",
    )


def _bytes_of(model: Model) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.state_dict().values())

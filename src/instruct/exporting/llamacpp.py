"""`instruct export gguf`, `ollama` and `adapter`: files for llama.cpp and programs built on it."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from instruct.exporting.adapter import base_source, require_adapter, write_gguf_adapter, write_peft_adapter
from instruct.exporting.export import Export
from instruct.exporting.gguf_writer import GGUFType, check_shapes, size_of, write_gguf
from instruct.exporting.modelfile import modelfile
from instruct.exporting.proof import Check
from instruct.exporting.running import Runner
from instruct.exporting.source import Source

MODEL, ADAPTER, MODELFILE = "model.gguf", "adapter.gguf", "Modelfile"
BASE = "base.gguf"  # exists only while an adapter is checked
LONGEST_CONTEXT = 8192
"""The longest context requested from Ollama, in tokens: it allocates the memory when it loads the model."""


def gguf_export(source: Source, kind: GGUFType, check: Check, name: str) -> Export:
    """One GGUF file; raises CheckpointError if the shapes do not allow the type."""
    check_shapes(source, kind)

    def write(folder: Path) -> list[str]:
        write_gguf(source, folder / MODEL, kind, name=name, about=about_file(source, check))
        return []

    return Export(
        kind="gguf",
        settings={"type": kind, "name": name},
        write=write,
        runner=lambda folder: llamacpp_runner(source, folder / MODEL, kind),
        bytes_needed=size_of(source, kind),
    )


def ollama_export(source: Source, kind: GGUFType, check: Check, name: str, out: Path) -> Export:
    """A GGUF file and the Modelfile that makes an Ollama model of it."""
    export = gguf_export(source, kind, check, name)

    def write(folder: Path) -> list[str]:
        export.write(folder)
        context = min(source.model.block_size, LONGEST_CONTEXT)
        (folder / MODELFILE).write_bytes(modelfile(source, MODEL, context).encode())
        return [shlex.join(["ollama", "create", name, "-f", str(out / MODELFILE)])]

    return Export(
        kind="ollama",
        settings=export.settings,
        write=write,
        runner=export.runner,
        bytes_needed=export.bytes_needed,
    )


def adapter_export(source: Source, check: Check, name: str) -> Export:
    """The LoRA adapter alone: a GGUF file for llama.cpp, and the files that PEFT reads.

    Raises CheckpointError for a checkpoint that is not an adapter. The check runs it on the base model in F32.
    """
    require_adapter(source)

    def write(folder: Path) -> list[str]:
        write_gguf_adapter(source, folder / ADAPTER, name=name, about=about_file(source, check))
        write_peft_adapter(source, folder)
        if check.examples:
            write_gguf(base_source(source), folder / BASE, "f32", name=source.origin.base, about={})
        command = f"llama-server --model BASE.gguf --lora {ADAPTER} --temp 0"  # another BASE.gguf need not say so
        return [f"run it on its base model, {source.origin.base}: {command}"]

    def runner(folder: Path) -> Runner:
        return exact_runner(source, folder / BASE, {"adapter": str(folder / ADAPTER)})

    return Export(
        kind="adapter",
        settings={"name": name},
        write=write,
        runner=runner,
        bytes_needed=size_of(source, "f32") if check.examples else 0,
        scratch=(BASE,),
    )


def llamacpp_runner(source: Source, path: Path, kind: GGUFType) -> Runner:
    """llama.cpp with this file and its default settings; for f32 with exact ones."""
    if kind == "f32":
        return exact_runner(source, path, {})
    return Runner(script="llamacpp", needs=("xllamacpp",), path=path, options={"options": {}})


def exact_runner(source: Source, path: Path, options: Mapping[str, str]) -> Runner:
    """llama.cpp computing in float32 throughout.

    One exception remains: it looks up GPT-2's GELU in a table of float16 numbers.
    """
    half = source.model.config.to_huggingface()["model_type"] == "gpt2"
    return Runner(
        script="llamacpp",
        needs=("xllamacpp",),
        path=path,
        options={"options": {**options, "exact": True}},
        rounding=5e-3 if half else 1e-3,
        how="float32 cache, no flash attention",
    )


def about_file(source: Source, check: Check) -> dict[str, str]:
    """Provenance fields that the file carries."""
    origin = source.origin
    return {
        "commit": origin.commit,
        "dvc_lock_sha256": origin.lock_sha256,
        "weights_sha256": " ".join(origin.weights_sha256),
        "base_model": origin.base,
        "template": source.template_name,
        "stop_strings": "\n".join(source.template.stop_strings),
        "check": check.words,
    }

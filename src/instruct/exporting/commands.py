"""The commands `instruct export …`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from instruct.core.errors import ParamsError
from instruct.core.params import did_you_mean, read_params

if TYPE_CHECKING:
    from instruct.exporting.export import Export
    from instruct.exporting.proof import Check
    from instruct.exporting.source import Source

app = typer.Typer(
    no_args_is_help=True,
    help="Export a checkpoint and check it in the program it is for. That program answers the test set.",
)

Checkpoint = Annotated[Path, typer.Option(help="the folder of the checkpoint")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="the folder to write (default: build/export/KIND, or KIND-TYPE where there is a type; with dpo- before it "
        "for a checkpoint in models/dpo)"
    ),
]
CheckN = Annotated[str, typer.Option("--check", help="test records to answer: a number, all, or 0 to skip the check")]
Template = Annotated[str | None, typer.Option(help="alpaca, phi3 or chatml, if the checkpoint is not this project's")]
Data = Annotated[Path, typer.Option(help="the test set; what makes an answer right is in checks.json beside it")]
Name = Annotated[
    str, typer.Option(help="the name of the model (default: instruct-sft, or instruct-dpo)", show_default=False)
]
Cache = Annotated[bool, typer.Option("--kv-cache/--no-kv-cache", help="the graph takes and returns keys and values")]

BEST, TEST, BUILD = Path("models/sft/best"), Path("data/split/test.json"), Path("build/export")
_CHECK = "all"


@app.command()
def gguf(
    kind: Annotated[str, typer.Option("--type", help="f32, f16, bf16, q8_0 or q4_0")] = "f16",
    checkpoint: Checkpoint = BEST,
    out: Out = None,
    check: CheckN = _CHECK,
    template: Template = None,
    data: Data = TEST,
    name: Name = "",
) -> None:
    """A GGUF file for llama.cpp, LM Studio and others. A LoRA adapter is merged."""
    from instruct.exporting.gguf_writer import GGUFType
    from instruct.exporting.llamacpp import gguf_export

    _require_type(kind, get_args(GGUFType))
    source, checked = _open(checkpoint, template, check, data)
    export = gguf_export(source, kind, checked, _name(name, checkpoint))  # type: ignore[arg-type]
    _run(export, source, checked, out or _place(f"gguf-{kind}", checkpoint))


@app.command()
def ollama(
    kind: Annotated[str, typer.Option("--type", help="f32, f16, bf16, q8_0 or q4_0")] = "f16",
    checkpoint: Checkpoint = BEST,
    out: Out = None,
    check: CheckN = _CHECK,
    template: Template = None,
    data: Data = TEST,
    name: Name = "",
) -> None:
    """A GGUF file and a Modelfile; prints the `ollama create` line."""
    from instruct.exporting.gguf_writer import GGUFType
    from instruct.exporting.llamacpp import ollama_export

    _require_type(kind, get_args(GGUFType))
    source, checked = _open(checkpoint, template, check, data)
    place = out or _place(f"ollama-{kind}", checkpoint)
    _run(ollama_export(source, kind, checked, _name(name, checkpoint), place), source, checked, place)  # type: ignore[arg-type]


@app.command()
def adapter(
    checkpoint: Checkpoint = BEST,
    out: Out = None,
    check: CheckN = _CHECK,
    template: Template = None,
    data: Data = TEST,
    name: Name = "",
) -> None:
    """The LoRA adapter alone, for llama.cpp and PEFT. The base model is not in it."""
    from instruct.exporting.llamacpp import adapter_export

    source, checked = _open(checkpoint, template, check, data)
    _run(
        adapter_export(source, checked, _name(name, checkpoint)), source, checked, out or _place("adapter", checkpoint)
    )


@app.command()
def hf(
    kind: Annotated[str, typer.Option("--type", help="fp32 or bf16")] = "fp32",
    push: Annotated[str, typer.Option(help="print the command that uploads to this repository, USER/NAME")] = "",
    checkpoint: Checkpoint = BEST,
    out: Out = None,
    check: CheckN = _CHECK,
    template: Template = None,
    data: Data = TEST,
    name: Name = "",
) -> None:
    """A folder for the Hugging Face Hub, transformers and vLLM. It has a model card; nothing is uploaded."""
    from instruct.exporting.hub import HubType, hub_export, push_line

    _require_type(kind, get_args(HubType))
    source, checked = _open(checkpoint, template, check, data)
    place = out or _place(f"hf-{kind}", checkpoint)
    _run(hub_export(source, kind, checked, _name(name, checkpoint), Path()), source, checked, place)  # type: ignore[arg-type]
    if push:
        print(push_line(push, place))


@app.command()
def onnx(
    cache: Cache = True,
    int8: Annotated[bool, typer.Option("--int8", help="matrices in 8 bits")] = False,
    checkpoint: Checkpoint = BEST,
    out: Out = None,
    check: CheckN = _CHECK,
    template: Template = None,
    data: Data = TEST,
) -> None:
    """An ONNX graph for onnxruntime, any batch size and length."""
    from instruct.exporting.tensors import onnx_export

    source, checked = _open(checkpoint, template, check, data)
    export = onnx_export(source, cache=cache, int8=int8)
    _run(export, source, checked, out or _place("onnx-int8" if int8 else "onnx", checkpoint))


@app.command()
def torch(
    cache: Cache = True,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="TorchScript, which torch deprecates, instead of .pt2")
    ] = False,
    checkpoint: Checkpoint = BEST,
    out: Out = None,
    check: CheckN = _CHECK,
    template: Template = None,
    data: Data = TEST,
) -> None:
    """A program of torch.export (.pt2), any batch size and length."""
    from instruct.exporting.tensors import torch_export

    source, checked = _open(checkpoint, template, check, data)
    _run(
        torch_export(source, cache=cache, legacy=legacy),
        source,
        checked,
        out or _place("torchscript" if legacy else "torch", checkpoint),
    )


def _name(name: str, checkpoint: Path) -> str:
    return name or f"instruct-{'dpo' if _is_dpo(checkpoint) else 'sft'}"


def _place(kind: str, checkpoint: Path) -> Path:
    """The folder for an export whose folder the user did not name: no two methods share one."""
    return BUILD / f"{'dpo-' if _is_dpo(checkpoint) else ''}{kind}"


def _is_dpo(checkpoint: Path) -> bool:
    return checkpoint.parent.name == "dpo"


def _require_type(kind: str, allowed: tuple[str, ...]) -> None:
    if kind not in allowed:
        raise ParamsError(f"--type: {kind} is not one of {', '.join(allowed)}{did_you_mean(kind, allowed)}")


def _open(checkpoint: Path, template: str | None, check: str, data: Path) -> "tuple[Source, Check]":
    """The checkpoint and the records to answer; raises for missing files before anything is computed."""
    from instruct.exporting.export import only_fitting, read_check
    from instruct.exporting.source import open_source, require_checkpoint

    read_params()
    require_checkpoint(Path(), checkpoint)
    checked = read_check(check, Path(), data)
    source = open_source(Path(), checkpoint, template)
    fitting = only_fitting(source, checked)
    if lost := len(checked.examples) - len(fitting.examples):
        print(f"{lost} of {len(checked.examples)} records leave no room for an answer and are left out of the check")
    return source, fitting


def _run(export: "Export", source: "Source", check: "Check", out: Path) -> None:
    from instruct.core.signals import like_ctrl_c
    from instruct.exporting.export import make_export

    with like_ctrl_c():
        for line in make_export(export, source, check, out):
            print(line, flush=True)

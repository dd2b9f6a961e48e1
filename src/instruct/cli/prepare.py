"""Before a run: settings, a batch, weights and data."""

from pathlib import Path
from typing import Annotated

import typer

from instruct.core.errors import DataError, ParamsError


def check(
    data: Annotated[Path | None, typer.Argument(help="a data file instead of split.data")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print problems only")] = False,
    every: Annotated[bool, typer.Option("--all", help="print all settings, not only uncommitted ones")] = False,
) -> None:
    """Validate settings, backbone and data. Prints settings that differ from the committed ones."""
    from instruct.tools.check import check_all

    checked = check_all(data, every=every)
    if not quiet:
        print("\n".join(checked.lines))
    if problems := checked.problems:
        raise ParamsError("\n".join([*problems, f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"]))
    if not quiet:
        print("no problems found")


def inspect(
    data: Annotated[Path | None, typer.Argument(help="a data file instead of split.data")] = None,
    records: Annotated[int, typer.Option("--records", "-n", min=1, help="how many records, from the first")] = 2,
) -> None:
    """Print one training batch: token, target, weight."""
    from instruct.backbones.catalog import ModelParams, find_backbone
    from instruct.core.params import load_params
    from instruct.core.records import problem_lines
    from instruct.formats.rows import check_rows
    from instruct.model.pretrained import load_tokenizer_of
    from instruct.splitting.partition import SplitParams
    from instruct.text.encoding import with_end_of
    from instruct.text.prompts import PromptParams
    from instruct.tools.inspect import batch_lines
    from instruct.training.encode import encode_all
    from instruct.training.settings import TrainParams

    params = load_params("train", TrainParams)
    template = load_params("prompt", PromptParams).chosen
    tokenizer = with_end_of(template, load_tokenizer_of(find_backbone(load_params("model", ModelParams).backbone)))
    split = load_params("split", SplitParams)
    examples, problems = check_rows(data or Path(split.data), split.columns)
    lines = problem_lines(problems)
    if lines and (data or split.invalid == "raise"):
        raise DataError("\n".join(lines))
    print("\n".join(f"left out: {line}" for line in lines), end="\n" * bool(lines))
    shown = examples[:records]
    fitted, cut, dropped = encode_all(
        shown, template, tokenizer,
        turns=params.turns, max_length=params.max_length, over_long=params.over_long,
    )  # fmt: skip
    if cut or dropped:
        print(f"of {len(shown)} records, train.over_long: {params.over_long} cuts {cut} and drops {dropped}")
    print("\n".join(batch_lines(fitted, tokenizer, params.prompt_loss_weight)))


def fetch(
    name: Annotated[str | None, typer.Argument(help="a backbone; without it, list all")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="take it from a local file or folder")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="write missing sizes and sha256 into the table")] = False,
) -> None:
    """Fetch a backbone's weights and verify their sha256.

    Resumes downloads and never unpickles. Reads OpenAI's GPT-2 folder (model.ckpt.index, …) without TensorFlow.
    """
    from instruct.backbones.catalog import find_backbone, read_table, unpinned
    from instruct.backbones.fetch import ensure, take_local
    from instruct.backbones.openai import is_openai_folder, take_openai
    from instruct.backbones.pin import pin_files
    from instruct.text.tokenizer import GPT2_FILES

    if name is None:
        if source or pin:
            raise ParamsError(f"{'--from' if source else '--pin'} needs the name of a backbone; give one")
        for backbone in read_table().values():
            megabytes = sum(file.size or 0 for file in backbone.files) / 1e6
            size = "not pinned" if unpinned(backbone) else f"{megabytes:7.0f} MB"
            print(f"{backbone.name:18} {size:>10}  {backbone.licence:11} {backbone.about}")
        return
    backbone = find_backbone(name)
    lines: list[str] = []
    if not backbone.files:
        print(f"{name}: needs no files")
    elif source and is_openai_folder(source):
        lines = take_openai(backbone, source, GPT2_FILES)
    else:
        lines = pin_files(backbone, source) if pin else []
        if source:
            take_local(find_backbone(name), source)
    print("\n".join(lines), end="\n" * bool(lines))
    for path in ensure(find_backbone(name)):
        print(f"{path}: verified")


def duplicates(
    files: Annotated[list[Path], typer.Argument(help="data files; duplicates are found within and across them")],
    on: Annotated[str | None, typer.Option(help="instruction, input, output, prompt or whole")] = None,
    similarity: Annotated[float | None, typer.Option(help="0-100, from 50")] = None,
    mode: Annotated[str | None, typer.Option(help="report, drop or group; drop and group write --out")] = None,
    method: Annotated[str | None, typer.Option(help="auto, exact or minhash")] = None,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the kept records with their groups")] = None,
    show: Annotated[int, typer.Option(min=0, help="how many groups to print, the largest first")] = 10,
) -> None:
    """Find exact and near-duplicates in data files. Other settings default to split.duplicates, but mode to report."""
    from dataclasses import asdict

    from instruct.core.params import build, load_params
    from instruct.splitting.near_duplicates import DuplicatesParams
    from instruct.splitting.partition import SplitParams
    from instruct.tools.duplicates import find_in_files

    params = load_params("split", SplitParams)
    given = {"on": on, "similarity": similarity, "mode": mode or "report", "method": method}
    values = {**asdict(params.duplicates), **{name: value for name, value in given.items() if value is not None}}
    chosen = build(DuplicatesParams, values, where="instruct duplicates")
    print("\n".join(find_in_files(files, chosen, params.columns, out=out, show=show)))


def import_data(name: Annotated[str, typer.Argument(help="a name from data/sources.yaml")]) -> None:
    """Import another data set and verify it, by `dvc import-url`."""
    from instruct.tools.import_data import import_data as run_import

    path = run_import(name)
    print(f"{path}: verified; use it with `dvc exp run -S split.data={path}`")

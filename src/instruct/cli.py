"""The command `instruct`: look before you run. The pipeline itself is `dvc repro`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from instruct.errors import InstructError, ParamsError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)


def run() -> None:
    """Run the command line; a mistake of the user's is one line and exit status 1."""
    try:
        app()
    except InstructError as error:
        print(f"instruct: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def check(
    data: Annotated[Path | None, typer.Argument(help="a data file in place of the one in params.yaml")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print problems only")] = False,
) -> None:
    """Validate params.yaml, the backbone's entry and the data, and print the effective settings."""
    from instruct.tools.check import check_all

    lines, problems = check_all(data)
    if not quiet:
        print("\n".join(lines))
    if problems:
        raise ParamsError("\n".join([*problems, f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"]))
    if not quiet:
        print("all is well")


@app.command()
def inspect(
    data: Annotated[Path | None, typer.Argument(help="a data file in place of the one in params.yaml")] = None,
    records: Annotated[int, typer.Option("--records", "-n", min=1, help="how many records, from the first")] = 2,
) -> None:
    """Print one training batch: token, target, weight."""
    from instruct.formats.rows import read_rows
    from instruct.model.backbones import ModelParams, find_backbone
    from instruct.model.pretrained import load_tokenizer_of
    from instruct.params import load_params
    from instruct.splitting.partition import SplitParams
    from instruct.text.prompts import TEMPLATES, PromptParams
    from instruct.tools.inspect import batch_lines
    from instruct.training.encode import encode_example, fit_length
    from instruct.training.settings import TrainParams

    params = load_params("train", TrainParams)
    template = TEMPLATES[load_params("prompt", PromptParams).template]
    tokenizer = load_tokenizer_of(find_backbone(load_params("model", ModelParams).backbone))
    split = load_params("split", SplitParams)
    examples = read_rows(data or Path(split.data), split.columns)[:records]
    encoded = (encode_example(example, template, tokenizer) for example in examples)
    fitted, _, _ = fit_length(encoded, params.max_length, params.over_long)
    print("\n".join(batch_lines(fitted, tokenizer, params.prompt_loss_weight)))


@app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(help="a backbone; none lists them all")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="a local file or folder to take it from")] = None,
) -> None:
    """Fetch a backbone's weights: resumes, verifies by sha256, never unpickles."""
    from instruct.model.backbones import find_backbone, read_table
    from instruct.model.fetch import ensure, take_local

    if name is None:
        for backbone in read_table().values():
            megabytes = sum(file.size for file in backbone.files) / 1e6
            print(f"{backbone.name:18} {megabytes:7.0f} MB  {backbone.licence:11} {backbone.about}")
        return
    backbone = find_backbone(name)
    if not backbone.files:
        print(f"{name}: needs no files")
    elif source:
        take_local(backbone, source)
    for path in ensure(backbone):
        print(f"{path}: verified")


@app.command("import-data")
def import_data(name: Annotated[str, typer.Argument(help="a name from data/sources.yaml")]) -> None:
    """Bring another data set in with `dvc import-url`, checksum verified."""
    from instruct.tools.import_data import import_data as run_import

    path = run_import(name)
    print(f"{path}: verified; use it with `dvc exp run -S split.data={path}`")


@app.command()
def replies(
    export: Annotated[Path | None, typer.Option("--export", help="write all replies to this JSON-lines file")] = None,
    load: Annotated[Path | None, typer.Option("--import", help="take in the replies of an exported file")] = None,
) -> None:
    """Show where replies of language models are kept, and share them: the export is the same bytes everywhere."""
    from instruct.servers.cache import ReplyCache, cache_file

    with ReplyCache(cache_file()) as cache:
        if load:
            new, total = cache.load(load)
            print(f"{load}: {total} replies, {new} of them new")
        if export:
            print(f"{export}: {cache.export(export)} replies")
        print(f"{cache.path}: {cache.count()} replies")


@app.command()
def smoke(
    keep: Annotated[Path | None, typer.Option(help="a new folder to run in and keep")] = None,
) -> None:
    """Run all stages with a tiny random model in a scratch copy; tracked results stay as they are."""
    from instruct.tools.smoke import run_smoke

    folder = run_smoke(Path.cwd(), keep)
    print(f"the smoke run went through{f'; its results are in {folder}' if keep else ''}")


@app.command()
def recipe(
    names: Annotated[list[str] | None, typer.Argument(help="names of recipes; none lists them all")] = None,
    every: Annotated[bool, typer.Option("--all", help="all that need nothing but the default backbone")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="only queue; `dvc exp run --run-all` runs the queue")] = False,
    show: Annotated[bool, typer.Option("--print", help="print the dvc commands, run nothing")] = False,
    table: Annotated[bool, typer.Option("--table", help="print what came out as a Markdown table")] = False,
) -> None:
    """Run named experiments: the ablations of the book and its readers, one `dvc exp run` each."""
    from instruct.tools import recipes as tool

    known = tool.read_recipes()
    chosen = tool.choose(known, names or [], "default" if every else None)
    if table:
        from instruct.tools.results import result_table

        print("\n".join(result_table(Path.cwd(), chosen or list(known.values()))))
    elif not chosen:
        print("\n".join(tool.list_lines(known)))
    elif show:
        print("\n".join(tool.command_line(one, queue=queue) for one in chosen))
    else:
        print("\n".join(tool.run_recipes(Path.cwd(), chosen, queue=queue)))


@app.command()
def verify(
    keep: Annotated[Path | None, typer.Option(help="a new folder to run in and keep")] = None,
    lock_only: Annotated[
        bool, typer.Option("--lock-only", help="run nothing: is dvc.lock that of the commit?")
    ] = False,
) -> None:
    """Run the commit a second time in a clean clone; every byte of dvc.lock and the metrics must come out the same."""
    from instruct.tools.verify import verify as run_verify

    if found := run_verify(Path.cwd(), keep, lock_only=lock_only):
        found.append(f"{len(found)} difference{'s' if len(found) > 1 else ''} between two runs of one commit")
        raise InstructError("\n".join(found))
    print("dvc.lock belongs to the commit" if lock_only else "dvc.lock and all metrics came out the same")

"""Run the pipeline elsewhere: a smoke run, named experiments, the commit again."""

from pathlib import Path
from typing import Annotated

import typer

from instruct.core.errors import InstructError


def smoke(
    keep: Annotated[Path | None, typer.Option(help="a new folder to run in and keep")] = None,
    prefer: Annotated[bool, typer.Option("--prefer", help="with preference tuning")] = False,
) -> None:
    """Run all stages with a tiny random model in a scratch copy. Tracked results do not change."""
    from instruct.tools.smoke import run_smoke

    folder = run_smoke(Path.cwd(), keep, prefer=prefer)
    print(f"the smoke run finished{f'; its results are in {folder}' if keep else ''}")


def recipe(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="recipes, or groups: default, preference, larger; without any, list all"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="all that need only the default backbone")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="only queue; `dvc exp run --run-all` runs the queue")] = False,
    show: Annotated[bool, typer.Option("--print", help="print the dvc commands, run nothing")] = False,
    table: Annotated[bool, typer.Option("--table", help="print the results as a Markdown table")] = False,
) -> None:
    """List, run or compare named experiments. Most are ablations of the book; each seed is a `dvc exp run`."""
    from instruct.tools import recipes as tool

    known = tool.read_recipes()
    chosen = tool.choose(known, names or [], "default" if every else None)
    if table:
        from instruct.tools.results import result_lines

        print("\n".join(result_lines(Path.cwd(), chosen or list(known.values()), known)))
    elif not chosen:
        print("\n".join(tool.list_lines(known)))
    elif show:
        print("\n".join(tool.command_line(one, queue=queue) for one in tool.with_seeds(known, chosen)))
    else:
        print("\n".join(tool.run_recipes(Path.cwd(), tool.with_seeds(known, chosen), queue=queue)))


def verify(
    keep: Annotated[Path | None, typer.Option(help="a new folder to run in and keep")] = None,
    lock_only: Annotated[
        bool, typer.Option("--lock-only", help="run nothing: only check that dvc.lock belongs to the commit")
    ] = False,
) -> None:
    """Run the commit again in a clean clone and compare. dvc.lock and all metrics must be the same bytes."""
    from instruct.tools.verify import verify as run_verify

    if found := run_verify(Path.cwd(), keep, lock_only=lock_only):
        found.append(f"{len(found)} difference{'s' if len(found) > 1 else ''} between two runs of one commit")
        raise InstructError("\n".join(found))
    print("dvc.lock belongs to the commit" if lock_only else "dvc.lock and all metrics came out the same")

"""The command `instruct`: the tools around the pipeline, which `dvc repro` runs."""

import sys
from pathlib import Path

import typer

from instruct.cli.judging import human, judge, questions, replies
from instruct.cli.prepare import check, duplicates, fetch, import_data, inspect
from instruct.cli.rerun import recipe, smoke, verify
from instruct.cli.results import compare, power, variance, view
from instruct.cli.use import ask, chat, policy, serve
from instruct.core.errors import InstructError
from instruct.core.terminal import guard_output, make_site_cache_private, print_error
from instruct.core.torch_environment import set_torch_environment
from instruct.exporting.commands import app as export

# In the order of `instruct --help`.
COMMANDS = (
    check, inspect, fetch, duplicates, import_data, judge, questions, ask, chat, serve, replies, smoke, view, compare,
    variance, power, recipe, verify,
)  # fmt: skip
GROUPS = {"policy": policy, "export": export, "human": human}

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)


@app.callback()
def before_each_command() -> None:
    """Check, inspect, compare and use the models; `dvc repro` runs the pipeline."""
    from instruct.tools.programs import mend

    mend(Path.cwd())


for command in COMMANDS:
    app.command()(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def run() -> None:
    """Run the command line; a user's mistake is one line and exit status 1."""
    guard_output()
    set_torch_environment()
    make_site_cache_private()
    try:
        app()
    except InstructError as error:
        print_error(f"instruct: {error}")
        sys.exit(1)

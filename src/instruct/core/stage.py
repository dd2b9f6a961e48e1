"""Runs the `main` of a stage script: paths from the command line, one line for every mistake of the user's."""

import inspect
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from instruct.core.errors import DataError, InstructError, ParamsError


def run_stage(main: Callable[..., None]) -> None:
    """Call `main` with one Path for each of its parameters, taken in order from the command line.

    A last parameter `*paths` takes one or more.

    Exits with status 2 for the wrong number of paths, 1 for an InstructError, 130 for Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parameters = inspect.signature(main).parameters.values()
    several = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    names = [one.name.upper() + "..." * (one.kind is one.VAR_POSITIONAL) for one in parameters]
    given = sys.argv[1:]
    script = Path(sys.argv[0]).name
    first = os.environ.get("RANK", "0") == "0"
    if len(given) < len(names) or (len(given) > len(names) and not several):
        print(f"usage: python src/{script} {' '.join(names)}", file=sys.stderr)
        sys.exit(2)
    try:
        main(*(Path(path) for path in given))
    except InstructError as error:
        # Under torchrun every process finds the same mistake in settings and data: the first one says it for all.
        if first or not isinstance(error, ParamsError | DataError):
            print(f"{script}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        if first:
            print(f"{script}: stopped; {str(interrupt) or '`dvc repro` runs this stage again'}", file=sys.stderr)
        sys.exit(130)

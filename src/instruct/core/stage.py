"""Runs the `main` of a stage script: paths from the command line, one line for any early end."""

import errno
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

from instruct.core.beginning import stopped
from instruct.core.ended import forget_recorded
from instruct.core.errors import DataError, InstructError, ParamsError
from instruct.core.inputs import check_inputs, watch_inputs
from instruct.core.locks import hold
from instruct.core.signals import like_ctrl_c
from instruct.core.terminal import guard_output, print_error

log = logging.getLogger(__name__)

DVC = Path(".dvc")
# A stage whose DVC was killed saves its state before it ends; the next stage waits this long for it.
WAIT_S = 60.0
SPACE = "free some space and run the stage again"
SHORTAGES = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EFBIG: "the file system does not allow files of this size; use another disk",
    errno.EIO: "check the disk and run the stage again",
    errno.EROFS: "mount it writable",
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENFILE: "close other programs",
}
MEMORY = "out of memory; close other programs, or lower the batch size, the length or the number of workers"


def run_stage(main: Callable[..., None], writes: Sequence[str] = ()) -> None:
    """Call `main` with one Path for each of its parameters, taken in order from the command line.

    A last parameter `*paths` takes one or more.
    `writes` names the parameters that are outputs: a second run that would write one of them waits or is refused.
    Exits with status 2 for the wrong number of paths, 1 for an InstructError, inputs that changed meanwhile, or a full
    disk or memory, 130 for Ctrl-C, SIGTERM and SIGHUP.
    """
    guard_output()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parameters = inspect.signature(main).parameters.values()
    several = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    names = [one.name.upper() + "..." * (one.kind is one.VAR_POSITIONAL) for one in parameters]
    given = [Path(path) for path in sys.argv[1:]]
    script = Path(sys.argv[0]).name
    first = os.environ.get("RANK", "0") == "0"
    if len(given) < len(names) or (len(given) > len(names) and not several):
        print(f"usage: python src/{script} {' '.join(names)}", file=sys.stderr)
        sys.exit(2)
    paths = inspect.signature(main).bind(*given).arguments
    outputs = [paths[name] for name in writes]
    try:
        with like_ctrl_c(), alone(outputs if first else []):
            if first:
                announce(main, outputs)
                watch_inputs()
                forget_recorded()
            main(*given)
            if first:
                check_inputs()
    except InstructError as error:
        # Under torchrun every process finds the same mistake in settings and data: only the first one prints it.
        if first or not isinstance(error, ParamsError | DataError):
            print_error(f"{script}: {error}")
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        if first:
            print_error(stopped(script, str(interrupt)))
        sys.exit(130)
    except (OSError, MemoryError, RuntimeError) as error:
        if not (shortage := shortage_of(error)):
            raise
        print_error(f"{script}: {shortage}")
        sys.exit(1)


def announce(main: Callable[..., None], outputs: Sequence[Path]) -> None:
    """Log what the stage will do, from its script's docstring, and its outputs."""
    about = (main.__globals__.get("__doc__") or "").strip().partition("\n")[0].rpartition("· ")[2].rstrip(".")
    if about:
        log.info("%s", f"{about} ({', '.join(map(str, outputs))})" if outputs else about)


@contextmanager
def alone(outputs: Sequence[Path]) -> Iterator[None]:
    """Keep other runs in this repository from writing `outputs`; raises InstructError if one does not end in time."""
    with ExitStack() as stack:
        for path in outputs if DVC.is_dir() else []:
            digest = sha256(str(path.resolve()).encode()).hexdigest()
            lock = DVC / "tmp" / f"instruct-{path.name}-{digest[:12]}.lock"
            stack.enter_context(hold(lock, str(path), wait_s=WAIT_S))
        yield


def shortage_of(error: BaseException) -> str:
    """The exhausted resource and a remedy; empty for any other error, which is a bug."""
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; {SHORTAGES[error.errno]}"
    # torch has no exception class for main memory.
    torch_says = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return MEMORY if isinstance(error, MemoryError) or torch_says else ""

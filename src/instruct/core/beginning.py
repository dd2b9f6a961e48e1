"""Every script imports this first, so that Ctrl-C and the end of DVC take effect while other imports still run.

A killed DVC leaves its stage running, and the next `dvc repro` would start a second one in the same folders.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

BACK = "`git restore metrics && dvc checkout`"
LOOK_S = 0.25


def stopped(script: str, said: str) -> str:
    """The line that ends a stage after Ctrl-C: what is kept, and how to resume or restore."""
    line = f"{script}: stopped; {said or '`dvc repro` runs this stage again'}"
    return line if BACK in line else f"{line}; {BACK} restores the committed results"


def _show(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(stopped(Path(sys.argv[0]).name, str(error)), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, at)


sys.excepthook = _show

import psutil  # noqa: E402 - after the hook: it takes the longest

from instruct.core.errors import InstructError  # noqa: E402
from instruct.core.inputs import watch_inputs  # noqa: E402
from instruct.core.torch_environment import set_torch_environment  # noqa: E402

set_torch_environment()
if os.environ.get("RANK", "0") == "0":
    with suppress(InstructError):  # run_stage looks again, and says it
        watch_inputs()  # before the other imports: code that changes after them did not run


def find_dvc() -> psutil.Process | None:
    """The DVC process that runs this stage: the nearest ancestor without the variable that DVC sets for its stages.

    A shell and torchrun may run between the two, and they survive when DVC is killed.
    """
    if "DVC_STAGE" not in os.environ:
        return None
    try:
        return next((one for one in psutil.Process().parents() if "DVC_STAGE" not in one.environ()), None)
    except psutil.Error:
        return None


def _end_with(dvc: psutil.Process) -> None:
    """Wait until DVC is gone, then send this process SIGTERM, so that training saves its state first."""
    while _is_alive(dvc):
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


if dvc := find_dvc():
    threading.Thread(target=_end_with, args=(dvc,), daemon=True, name="ends with DVC").start()

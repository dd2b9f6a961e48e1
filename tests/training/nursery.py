"""Starts src/train.py again and again without waiting each time for torch to be imported.

python nursery.py, in a copy of the repository. A line of the standard input is a folder, a copy like this one: its
src/train.py runs there in a child process, as DVC's stage, with the output in train.log; the answer is a line with the
process id. An empty line waits for that process; the answer is its exit status.
"""

import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path

ARGUMENTS = ["src/train.py", "data/split", "models/sft", "metrics/train.json", "metrics/curves"]


def live(folder: Path) -> int:
    os.chdir(folder)
    log = os.open("train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:] = ARGUMENTS
    os.environ["DVC_STAGE"] = "train"
    try:
        runpy.run_path("src/train.py", run_name="__main__")
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except KeyboardInterrupt:  # before the stage could handle it
        status = 130
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> None:
    sys.path.insert(0, "src")
    runpy.run_path("src/train.py", run_name="only the imports")
    import torch._dynamo  # noqa: F401 (the optimizer imports it when it is first used)

    from instruct.text.tokenizer import gpt2_tokenizer, save_tokenizer

    with tempfile.TemporaryDirectory() as folder:  # what a process finds of the vocabulary takes a second and is kept
        save_tokenizer(gpt2_tokenizer(), Path(folder) / "tokenizer.json")
    print("ready", flush=True)
    pid = 0
    for line in sys.stdin:
        if not line.strip():
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            status = 1
            try:
                status = live(Path(line.strip()))
            except KeyboardInterrupt:  # before the child was ready, or after the stage had ended
                status = 130
            finally:
                os._exit(status)
        print(pid, flush=True)


if __name__ == "__main__":
    main()

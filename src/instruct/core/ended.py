"""The state of a run that has ended is kept until DVC has recorded the outputs.

DVC stores them after the command, which takes long for large models, and may be killed or find its disk full meanwhile.
The next run of the stage would delete them; from the state it goes on instead.
"""

import os
import shutil
from hashlib import md5
from pathlib import Path

from instruct.core.errors import InstructError
from instruct.core.files import read_json, write_json
from instruct.core.parsing import mapping, read_yaml

STATES, MARK, LOCK = Path("models/resume"), "ended.json", Path("dvc.lock")


def keep_until_recorded(state: Path, output: Path) -> None:
    """Have the next stage remove the folder `state` if dvc.lock then names `output` as it is now."""
    digest = md5(output.read_bytes(), usedforsecurity=False).hexdigest()
    write_json(state / MARK, {"path": str(output), "md5": digest})


def runs_under_dvc() -> bool:
    """Whether DVC runs this stage, and records its outputs."""
    return "DVC_STAGE" in os.environ


def forget_recorded() -> None:
    """Remove the states of runs whose outputs dvc.lock names."""
    marks = sorted(STATES.glob(f"*/{MARK}"))
    if not marks or not LOCK.is_file():
        return
    try:
        stages = mapping(mapping(read_yaml(LOCK)).get("stages")).values()
        recorded = [(out.get("path"), out.get("md5")) for stage in stages for out in mapping(stage).get("outs") or []]
        for mark in marks:
            ended = mapping(read_json(mark))
            if (ended.get("path"), ended.get("md5")) in recorded:
                shutil.rmtree(mark.parent, ignore_errors=True)
    except InstructError:  # a lock or a mark that breaks off: the state stays
        return

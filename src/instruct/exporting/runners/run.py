"""Answers the prompts of a request with one of these programs, and says how much memory that took.

python run.py graph request.json reply.json
"""

import json
import re
import runpy
import sys
from pathlib import Path


def main(program: str, request: Path, reply: Path) -> None:
    """Write what `answer` of the program returns for the request."""
    answer = runpy.run_path(str(Path(__file__).with_name(f"{program}.py")))["answer"]
    done = answer(json.loads(request.read_text(encoding="utf-8")))
    reply.write_text(json.dumps({**done, "peak_bytes": peak_bytes()}), encoding="utf-8")


def peak_bytes() -> int:
    """The most memory that this process held; Linux's `ru_maxrss` would begin with that of its parent."""
    status = Path("/proc/self/status")
    held = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE) if status.is_file() else None
    if held:
        return int(held[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))

"""What Git knows, for the tools that compare and show runs."""

import subprocess
from pathlib import Path


def ask_git(root: Path, *arguments: str) -> str | None:
    """What Git prints in `root`, or None where it refuses or is not there; what is no UTF-8 is replaced."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.decode("utf-8", "replace")

"""Runs Git and DVC for the tools."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from instruct.core.errors import InstructError
from instruct.core.files import write_text
from instruct.core.git import call_git, complaint_of, outside_hooks
from instruct.core.parsing import parse_yaml
from instruct.core.signals import like_ctrl_c

RWLOCK, LOCK = Path(".dvc/tmp/rwlock"), Path("dvc.lock")
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)  # what Git leaves where two branches differ
_LOCK_BEGINS = "schema: '2.0'\nstages:\n"


def run_git(folder: Path, *arguments: str) -> str:
    """What Git prints; raises InstructError with Git's own words where it fails or cannot be started."""
    done = call_git(folder, *arguments)
    if done.returncode:
        raise InstructError(f"{folder}: git {arguments[0]} failed ({complaint_of(done)})")
    return done.stdout.decode("utf-8", "replace")


def git_names(folder: Path, *arguments: str) -> list[str]:
    """The file names that a Git command prints with `-z`, unquoted."""
    done = call_git(folder, *arguments)
    if done.returncode:
        raise InstructError(f"{folder}: git {arguments[0]} failed ({complaint_of(done)})")
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def require_new(folder: Path) -> None:
    """Make the folder; raises InstructError where anything but an empty folder is there already."""
    try:
        if folder.is_dir():
            if any(folder.iterdir()):
                raise InstructError(f"{folder}: is not empty; give a new folder")
        elif folder.is_symlink():
            raise InstructError(f"{folder}: is a link to no folder; give a new folder")
        elif folder.exists():
            raise InstructError(f"{folder}: is a file; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstructError(f"{folder}: cannot be made ({error.strerror or error}); give a new folder") from None


def run_dvc(folder: Path, *arguments: str) -> int:
    """Run DVC in `folder` with this Python first on the path; returns the exit status."""
    return _dvc(folder, arguments, captured=False).returncode


def ask_dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Like `run_dvc`, but DVC's output is in the result instead of on the screen."""
    return _dvc(folder, arguments, captured=True)


def _dvc(folder: Path, arguments: Sequence[str], *, captured: bool) -> subprocess.CompletedProcess[str]:
    """Run DVC; what ends this process ends DVC too, and its stage ends with it."""
    mend(folder)
    command = [sys.executable, "-m", "dvc", *arguments]
    with like_ctrl_c():
        return subprocess.run(command, cwd=folder, env=_environment(), capture_output=captured, text=True)


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # With PYTHONSAFEPATH a stage in a copy would import this repository's code, not that of the copy.
    return {**outside_hooks(), "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONSAFEPATH": ""}


def configure_dvc(folder: Path, settings: str) -> None:
    """Give DVC in a copy of a repository settings of its own; raises InstructError if the copy has no `.dvc`."""
    if not (folder / ".dvc").is_dir():
        raise InstructError(".dvc: is not in Git, so this is not a DVC repository; run `dvc init` and commit")
    write_text(folder / ".dvc/config.local", settings)


def mend(root: Path) -> None:
    """Repair DVC's own files in `root` that a kill cut short; DVC 3.67 empties them before it writes them."""
    mend_rwlock(root)
    mend_lock(root)


def mend_lock(root: Path) -> None:
    """Drop the stage in which dvc.lock breaks off; what it had computed is in DVC's run cache.

    A file that is broken elsewhere, such as one with a Git conflict, stays unchanged.
    """
    path = root / LOCK
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return
    if _is_whole_lock(text) or _CONFLICT.search(text):
        return
    begins = [found.start() for found in re.finditer(r"^  \S", text, re.MULTILINE)]
    kept = text[: begins[-1]] if begins else ""
    is_cut = _is_whole_lock(kept) if len(begins) > 1 else _LOCK_BEGINS.startswith(text[: len(_LOCK_BEGINS)])
    if not is_cut or any(_is_dvc_in(root, process) for process in psutil.process_iter()):
        return
    if len(begins) > 1:
        write_text(path, kept)
    else:
        path.unlink()
    print(f"{path}: was cut short when DVC was killed; its last stage is dropped, DVC adds it again", file=sys.stderr)


def _is_whole_lock(text: str) -> bool:
    """Whether DVC accepts it: each stage has its command, each of its files a path, and texts are texts."""
    try:
        stages = parse_yaml(text, "dvc.lock")["stages"].values()
        files = [file for stage in stages for part in ("deps", "outs") for file in stage.get(part, ())]
        return all(isinstance(stage["cmd"], str | list) for stage in stages) and all(map(_is_whole_file, files))
    except (InstructError, AttributeError, KeyError, TypeError):
        return False


def _is_whole_file(file: Mapping[str, Any]) -> bool:
    counts = [file[name] for name in ("size", "nfiles") if name in file]
    texts = [file["path"], file.get("hash", "")]
    digest = re.fullmatch(r"[0-9a-f]{32}(\.dir)?", file.get("md5", "0" * 32))
    return bool(digest) and all(type(one) is int for one in counts) and all(isinstance(one, str) for one in texts)


def mend_rwlock(root: Path) -> None:
    """Remove DVC's table of locks where a kill has cut it short: every later `dvc repro` would fail on it.

    Where a DVC still works in `root`, its table stays.
    """
    path = root / RWLOCK
    try:
        whole = isinstance(json.loads(path.read_bytes()), dict)
    except OSError:
        return
    except ValueError:
        whole = False
    if whole or any(_is_dvc_in(root, process) for process in psutil.process_iter()):
        return
    path.unlink(missing_ok=True)
    print(f"{path}: was cut short when DVC was killed; removed, DVC writes another", file=sys.stderr)


def _is_dvc_in(root: Path, process: psutil.Process) -> bool:
    """Whether a process is a DVC that works in `root`; one whose folder is a secret counts as such."""
    try:
        if not any(Path(part).name in ("dvc", "dvc.exe") for part in process.cmdline()):
            return False
        return Path(process.cwd()).resolve().is_relative_to(root.resolve())
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False

"""The answers of a run: in the working tree, or in DVC's cache. Their absence is said in words, never an error."""

import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from instruct.core.errors import DataError
from instruct.core.records import Response, read_responses
from instruct.results.lock import in_folders, lock_outs, md5_of
from instruct.results.runs import Run

_MD5 = re.compile("[0-9a-f]{32}")


class Cache:
    """DVC's cache: its usual folder, else where DVC finds it after all its settings, which takes it a second."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def folder(self) -> Path | None:
        """Where it is; None without DVC."""
        command = [sys.executable, "-m", "dvc", "cache", "dir"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        return self.root / done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None

    def find(self, md5: str) -> Path | None:
        """The file with this content, or None if the cache lacks it; any branch may name any path as an md5."""
        if not _MD5.fullmatch(md5):
            return None
        name = Path("files", "md5", md5[:2], md5[2:])
        if (usual := self.root / ".dvc" / "cache" / name).is_file():
            return usual
        return self.folder / name if self.folder and (self.folder / name).is_file() else None


def read_answers(run: Run, system: str, cache: Cache) -> tuple[list[Response], str]:
    """One system's answers, or none and the reason in words."""
    wanted = run.results.system(system)
    where = f"{wanted.answers} of {run.name}"
    path: Path | None = cache.root / wanted.answers
    if run.commit:
        within_folder = wanted.md5 if in_folders({wanted.answers: wanted.md5}, run.lock) else ""
        digest = lock_outs(run.lock).get(wanted.answers, within_folder)
        if not digest:
            return [], f"the dvc.lock of {run.name} does not name {wanted.answers}"
        path = cache.find(digest)
    if path is None or not path.is_file():
        return [], f"{where} is not " + ("in DVC's cache here (`dvc fetch` brings it)" if run.commit else "there")
    try:
        if md5_of(path.read_bytes()) != wanted.md5:
            return [], f"{where} is not what was judged (`dvc repro evaluate` judges it)"
        return read_responses(path), ""
    except (DataError, OSError):
        return [], f"{where} is not a file of responses"

"""Which runs there are: workspace, revisions of Git, experiments of DVC; and their files, read from Git alone."""

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from instruct.comparing.runs import WORKSPACE, find_commit
from instruct.core.git import ask_git, list_experiments, utc_time

TRUNKS = ("main", "master")


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One place that may hold a run; `commit` is empty for the workspace, `baseline` for all but experiments."""

    name: str
    kind: str  # workspace | revision | experiment
    commit: str = ""
    baseline: str = ""
    when: str = ""


def list_revisions(root: Path, asked: Sequence[str] = ()) -> list[Revision]:
    """The workspace, the branch at hand, the trunk, what is asked for, then all experiments, newest first.

    A commit with several names stands there under the first. Without Git only the workspace is left. Raises ParamsError
    for a name that `find_commit` does not know.
    """
    found = [Revision(name=WORKSPACE, kind="workspace")]
    wanted = {name: find_commit(name, root) for name in asked if name != WORKSPACE}
    if ask_git(root, "rev-parse", "--is-inside-work-tree") is None:
        return found
    experiments = [
        Revision(name=one.name, kind="experiment", commit=one.commit, baseline=one.baseline, when=one.when)
        for one in list_experiments(root)
    ]
    branch = _git(root, "symbolic-ref", "--quiet", "--short", "HEAD") or "HEAD"
    usual = {name: _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") for name in (branch, *TRUNKS)}
    of_experiments = {one.commit for one in experiments}
    new = {name: commit for name, commit in wanted.items() if commit not in of_experiments}
    for name, commit in (*usual.items(), *new.items()):
        if commit and commit not in {one.commit for one in found}:
            when = utc_time(_git(root, "show", "-s", "--format=%ct", commit) or "0")
            found.append(Revision(name=name, kind="revision", commit=commit, when=when))
    return found + experiments


def names_of_commits(root: Path, revisions: Iterable[Revision]) -> dict[str, str]:
    """A word for each commit: the branch at its tip where there is one, else seven digits."""
    names = {one.baseline: one.baseline[:7] for one in revisions if one.baseline}
    listed = _git(root, "for-each-ref", "--format=%(objectname) %(refname:short)", "refs/heads") or ""
    for commit, name in (line.split(" ", 1) for line in listed.splitlines()):
        if commit in names:
            names[commit] = name
    return names


def read_files(root: Path, revisions: Sequence[Revision], paths: Sequence[str]) -> list[dict[str, bytes]]:
    """For each revision the content of those of `paths` that it holds; one call of Git reads them all."""
    found: list[dict[str, bytes]] = [{} for _ in revisions]
    wanted = [(i, path) for i, one in enumerate(revisions) if one.commit for path in paths]
    for i, one in enumerate(revisions):
        if not one.commit:
            found[i] = {path: (root / path).read_bytes() for path in paths if (root / path).is_file()}
    if wanted:
        lines = "".join(f"{revisions[i].commit}:./{path}\n" for i, path in wanted)
        command = ["git", "cat-file", "--batch"]
        done = subprocess.run(command, cwd=root, input=lines.encode(), capture_output=True, check=False)
        for (i, path), content in zip(wanted, _blobs(done.stdout), strict=False):
            if content is not None:
                found[i][path] = content
    return found


def _blobs(output: bytes) -> Iterable[bytes | None]:
    """The objects of `git cat-file --batch` in order; None for one that is not there."""
    at = 0
    while at < len(output):
        end = output.index(b"\n", at)
        header, at = output[at:end], end + 1
        if header.endswith(b" missing"):
            yield None
            continue
        size = int(header.rsplit(b" ", 1)[1])
        yield output[at : at + size]
        at += size + 1


def _git(root: Path, *arguments: str) -> str | None:
    """What Git prints, without the end of its last line; None where it refuses or is not there."""
    said = ask_git(root, *arguments)
    return None if said is None else said.strip()

"""Which runs there are: workspace, revisions of Git, experiments of DVC; and their files, read from Git alone."""

import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from instruct.core.errors import ParamsError
from instruct.core.files import readable
from instruct.core.git import ask_git, call_git, complaint_of, list_experiments, utc_time

WORKSPACE = "workspace"
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

    A commit with several names is listed under the first. Without Git only the workspace is left. Raises ParamsError
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
    branch = ask_git(root, "symbolic-ref", "--quiet", "--short", "HEAD") or "HEAD"
    usual = {
        name: ask_git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") for name in (branch, *TRUNKS)
    }
    of_experiments = {one.commit for one in experiments}
    new = {name: commit for name, commit in wanted.items() if commit not in of_experiments}
    for name, commit in (*usual.items(), *new.items()):
        if commit and commit not in {one.commit for one in found}:
            when = utc_time(ask_git(root, "show", "-s", "--format=%ct", commit) or "0")
            found.append(Revision(name=name, kind="revision", commit=commit, when=when))
    return found + experiments


def find_commit(name: str, root: Path) -> str:
    """The commit of a revision, else of the DVC experiment of this name, else of the branch of this name on origin."""
    if commit := _commit_of(name, root):
        return commit
    named = [one for one in list_experiments(root) if one.name == name]
    head = ask_git(root, "rev-parse", "HEAD")
    found = {one.commit for one in named if one.baseline == head} or {one.commit for one in named}
    if len(found) == 1:
        return found.pop()
    if found:
        raise ParamsError(f'"{name}" names {len(found)} experiments; give the commit, `dvc exp list -A` shows them')
    if commit := _commit_of(f"refs/remotes/origin/{name}", root):
        return commit
    there = call_git(root, "rev-parse", "--git-dir")
    if there.returncode:
        said = complaint_of(there)
        if "not a git repository" in said:
            raise ParamsError(f"{root.name}: is not a Git repository; run inside a clone")
        raise ParamsError(f"{root.name}: Git refuses this folder: {said}")
    remedies = f"{_how_to_bring(name, root)}, `dvc exp list -A` shows experiments"
    raise ParamsError(f'there is no revision or experiment "{name}"; {remedies}')


def _commit_of(revision: str, root: Path) -> str:
    """The commit that Git knows by this name, or nothing; `^main`, all that main lacks, does not count."""
    said = ask_git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}") or ""
    return said if re.fullmatch(r"[0-9a-f]{40,64}", said) else ""


def _how_to_bring(name: str, root: Path) -> str:
    """What brings a revision that this clone lacks: a fetch where the clone is shallow and the name can be one's."""
    if ask_git(root, "rev-parse", "--is-shallow-repository") != "true":
        return "see `git branch -a`"
    branch, *steps = re.split(r"(?=[~^])", name)
    if steps and _commit_of(branch, root):
        return "this clone is shallow: `git fetch --deepen 50` brings older commits"
    if ask_git(root, "check-ref-format", "--branch", branch) is None:
        return "see `git branch -a`"
    source = shlex.quote(f"+refs/heads/{branch}:refs/remotes/origin/{branch}")
    depth = "--depth 50" if steps else "--depth 1"
    return f"this clone is shallow: `git fetch {depth} origin {source}` brings a branch"


def names_of_commits(root: Path, revisions: Iterable[Revision]) -> dict[str, str]:
    """A word for each commit: the branch at its tip where there is one, else seven digits."""
    names = {one.baseline: one.baseline[:7] for one in revisions if one.baseline}
    listed = ask_git(root, "for-each-ref", "--format=%(objectname) %(refname:short)", "refs/heads") or ""
    for commit, name in (line.split(" ", 1) for line in listed.splitlines()):
        if commit in names:
            names[commit] = name
    return names


def read_files(root: Path, revisions: Sequence[Revision], paths: Sequence[str]) -> list[dict[str, bytes]]:
    """For each revision the content of those of `paths` that it holds; one call of Git reads them all."""
    found = [{} if one.commit else _in_place(root, paths) for one in revisions]
    wanted = [(i, path) for i, one in enumerate(revisions) if one.commit for path in paths]
    if wanted:
        lines = "".join(f"{revisions[i].commit}:./{path}\n" for i, path in wanted)  # `root` may lie inside a repository
        done = subprocess.run(["git", "cat-file", "--batch"], cwd=root, input=lines.encode(), capture_output=True)
        for (i, path), content in zip(wanted, _blobs(done.stdout), strict=False):
            if content is not None:
                found[i][path] = content
    return found


def _in_place(root: Path, paths: Sequence[str]) -> dict[str, bytes]:
    found = {}
    for path in paths:
        if (root / path).is_file():
            with readable(root / path):
                found[path] = (root / path).read_bytes()
    return found


def _blobs(output: bytes) -> Iterable[bytes | None]:
    """The objects of `git cat-file --batch` in order; None for one that does not exist."""
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

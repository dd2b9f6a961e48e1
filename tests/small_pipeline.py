"""A pipeline in small for the tests: how to run programs in it, and what its folder holds."""

import os
import shutil
import subprocess

import pytest
import warm


def run(*command, cwd, **environment):
    """Run a program to its end; `dvc`, the Python of its stages, and `python` by that name start warm."""
    path = {"PATH": f"{warm.programs()}{os.pathsep}{os.environ['PATH']}"} if command[0] in ("dvc", "python") else {}
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **path, **environment}, capture_output=True, text=True, timeout=1200
    )


def git(folder, *arguments):
    done = run("git", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit_all(folder):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-verify", "--message", "all")


def copy_tracked(root, folder):
    """Copy what Git tracks or would track; skips the test outside of a repository."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=root)
    if listed.returncode:
        pytest.skip("this is not a Git repository, so nobody knows its files")
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)


def content_of(folder):
    """Every file of a folder but Git's and DVC's own, and what clocks have measured."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.relative_to(folder).parts[0] not in (".git", ".dvc")
        and "__pycache__" not in path.parts
        and path.name != "speed.json"
    }

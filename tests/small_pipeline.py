"""A pipeline in small for the tests: how to run programs in it, and what its folder holds."""

import os
import shutil
import subprocess
from functools import reduce

import pytest
import warm
from ruamel.yaml import YAML

from instruct.tools.smoke import overlay


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


def leaves(values, prefix=""):
    """Each setting by its dotted name, with its value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nested(settings):
    """Dotted keys as the nested mapping that params.yaml has."""
    values = {}
    for key, value in settings.items():
        *above, last = key.split(".")
        reduce(lambda place, name: place.setdefault(name, {}), above, values)[last] = value
    return values


def edit_params(source, path, changes):
    """Write the settings of `source` with `changes`, by dotted name, to `path`."""
    yaml = YAML()
    values = yaml.load(source.read_text(encoding="utf-8"))
    overlay(values, nested(changes))
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(values, file)


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

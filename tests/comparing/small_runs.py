"""Runs written by hand into a real Git and DVC repository."""

import json
import os
import subprocess
from collections.abc import Iterable
from hashlib import md5
from pathlib import Path

import warm
import yaml
from results.sample import PARAMS, answer, write_results

from instruct.core.files import write_csv
from instruct.core.records import Turn, as_row

ENVIRONMENT = {
    "DVC_NO_ANALYTICS": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    **{f"GIT_{who}_{what}": "x@y.z" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def dvc(root: Path, *arguments: str) -> str:
    done = warm.python("-m", "dvc", *arguments, cwd=root, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_repository(root: Path, *, with_dvc: bool = False) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "-q", "-b", "main")
    if with_dvc:
        dvc(root, "init", "-q")
        stages = {"evaluate": {"cmd": "true", "metrics": [{"metrics/summary.json": {"cache": False}}]}}
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return root


def write_run(
    root: Path,
    scores: dict[str, list[float | None]],
    *,
    params: dict | None = None,
    judges: dict[str, dict] | None = None,
    **fields,
) -> None:
    """The tracked files of one run, whose SFT answers got `scores`; those of the base model all got 10."""
    both = {name: {"base": [10.0] * len(values), "sft": values} for name, values in scores.items()}
    write_results(root, both, identities=judges, **fields)
    curve = [{"step": i, "loss": 3 / (i + 1)} for i in range(4)]
    for part in ("train", "val"):
        write_csv(root / f"metrics/curves/{part}.csv", ["step", "loss"], curve)
    values = {name: dict(section) for name, section in PARAMS.items()}
    for key, value in (params or {}).items():
        section, name = key.split(".")
        values[section][name] = value
    (root / "params.yaml").write_text(yaml.safe_dump(values))


def write_lock(root: Path, *, params: dict | None = None, outs: Iterable[str] = ()) -> None:
    """A dvc.lock of one stage that was run with `params`, its outputs as they lie in `root` now."""
    files = [{"path": path, "hash": "md5", "md5": md5((root / path).read_bytes()).hexdigest()} for path in outs]
    stage = {"cmd": "true", "params": {"params.yaml": params or {}}, "outs": files}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"evaluate": stage}}))


def commit(root: Path, message: str = "a run") -> str:
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


def responses(ids: list[str], text: str, said: str = "") -> str:
    """Answers to the last question of chats in which `said` was said before."""
    fields = {"history": (Turn(f"earlier {said}", "", f"said {said}"),)}
    rows = [
        answer(one, f"{text} {one}", instruction=f"Ask <b>{one}</b>", output=f"right {one}", **fields) for one in ids
    ]
    return json.dumps([as_row(row) for row in rows])

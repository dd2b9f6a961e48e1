"""Runs written by hand into a real Git and DVC repository."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from hashlib import md5
from pathlib import Path

import yaml

from instruct.core.files import write_csv, write_json

PARAMS = {"train": {"seed": 123, "lr": 0.0002}, "prompt": {"template": "alpaca"}, "evaluate": {"seed": 123}}
IDENTITY = {"judge": "ollama", "model": "llama3:8b", "digest": "365c0bd3"}
TEST = {"records": 40, "sha256": "a" * 64, "template": "alpaca", "template_sha256": "b" * 64}
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
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_repository(root: Path, *, with_dvc: bool = False) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "-q", "-b", "main")
    if with_dvc:
        dvc(root, "init", "-q")
        stages = {"evaluate": {"cmd": "true", "metrics": [{"metrics/evaluate.json": {"cache": False}}]}}
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return root


def write_run(
    root: Path,
    scores: dict[str, list[float | None]],
    *,
    judges: dict[str, dict] | None = None,
    test: dict | None = None,
    groups: list[str] | None = None,
    ids: list[str] | None = None,
    params: dict | None = None,
    signatures: dict | None = None,
    reference_measures: tuple[str, ...] = ("similarity",),
) -> None:
    """The tracked files of one run, whose tuned answers got `scores`; the untuned ones all got 10."""
    count = len(next(iter(scores.values())))
    ids = ids or [f"r{i}" for i in range(count)]
    judge_parts = {
        name: {"identity": identity, "rubric": "score-0-100", "rubric_sha256": "c" * 64}
        for name, identity in (judges or {}).items()
    }
    evaluate = {
        "test": {**TEST, **(test or {})},
        "judges": judge_parts,
        "reference": {"tuned": {}, "signatures": signatures or {"chrf": "nrefs:1|v:2.6.0"}},
    }
    write_json(root / "metrics/evaluate.json", evaluate)
    rows = []
    for i, id_ in enumerate(ids):
        row = {"id": id_, "kind": "riddle", "group": groups[i] if groups else ""}
        for name, values in scores.items():
            row |= {f"{name}.base": 10.0} | ({f"{name}.tuned": values[i]} if values[i] is not None else {})
        rows.append(row)
    columns = ["id", "kind", "group", *(f"{name}.{system}" for name in scores for system in ("base", "tuned"))]
    write_csv(root / "metrics/scores.csv", columns, rows)
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


def responses(ids: list[str], text: str) -> str:
    texts = {"instruction": "Ask <b>{}</b>", "output": "right {}"}
    rows = [
        {
            "id": one,
            "input": "",
            "response": f"{text} {one}",
            **{key: value.format(one) for key, value in texts.items()},
        }
        for one in ids
    ]
    return json.dumps(rows)

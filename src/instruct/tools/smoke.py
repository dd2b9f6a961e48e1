"""Runs the whole pipeline with a tiny model, in a scratch copy that leaves tracked results untouched."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any

import yaml

from instruct.core.errors import InstructError, ParamsError
from instruct.core.files import read_json, write_json, write_text
from instruct.core.git import call_git, complaint_of
from instruct.core.params import PARAMS_FILE, build
from instruct.core.parsing import read_yaml
from instruct.formats.columns import USUAL, Columns
from instruct.formats.rows import picked_rows
from instruct.tools.check import check_params
from instruct.tools.own_data import only_in_dvc
from instruct.tools.programs import configure_dvc, require_new, run_dvc

OVERLAY = Path(__file__).with_name("smoke.yaml")
RECORDS = 40
DATA = "data/smoke.json"
CHECKS = "data/smoke-checks.json"
PAIRS = "data/smoke-pairs.json"
PRODUCTS = ("dvc.lock", "metrics")
README = "README.md"  # keeps a folder that has no results yet


def run_smoke(root: Path, keep: Path | None = None, *, prefer: bool = False) -> Path:
    """Copy `root`, make it small, and run `dvc repro` there; returns the folder (gone unless `keep` is given).

    With `prefer`, preference tuning is switched on, whatever params.yaml says.

    Raises InstructError if a stage fails, after the stage printed its own message.
    """
    if keep:
        require_new(keep)
        return _run_in(root, keep, prefer)
    with tempfile.TemporaryDirectory(prefix="instruct-smoke-") as folder:
        return _run_in(root, Path(folder), prefer)


def _run_in(root: Path, folder: Path, prefer: bool) -> Path:
    _, problems = check_params(root / PARAMS_FILE)
    if problems:
        raise ParamsError("\n".join(problems))
    copy_tree(root, folder)
    make_small(root, folder, prefer=prefer)
    if run_dvc(folder, "repro") != 0:
        raise InstructError("the smoke run failed; the stage's own message is above")
    return folder


def copy_tree(root: Path, folder: Path) -> None:
    """Copy what Git tracks or would track, but no result, into a DVC repository of its own without Git."""
    listed = call_git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed.returncode:
        raise InstructError(f"{root}: Git cannot list its files ({complaint_of(listed)}); run this in a clone")
    for name in map(os.fsdecode, filter(None, listed.stdout.split(b"\0"))):
        product = name.split("/")[0] in PRODUCTS and Path(name).name != README
        if product or not (root / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name)
    configure_dvc(folder, "[core]\n    no_scm = true\n")


def make_small(root: Path, folder: Path, *, prefer: bool = False) -> None:
    """Overlay the smoke settings, and put the first records of the data set and its checks into `folder`.

    Records are made up, and there are no checks, where DVC keeps these files and nobody has pulled them.
    """
    params = read_yaml(folder / "params.yaml")
    overlay(params, read_yaml(OVERLAY))
    split, pairs = params["split"], params["pairs"]
    no_data = is_missing(root, split["data"], "made-up records")
    records = made_up_records() if no_data else first_records(root, split)
    write_json(folder / DATA, records)
    split |= {"data": DATA, "columns": asdict(USUAL)}
    if not (folder / split["checks"]).is_file():
        no_checks = is_missing(root, split["checks"], "no checks")
        write_json(folder / CHECKS, {} if no_checks else read_json(root / split["checks"]))
        split["checks"] = CHECKS
    if prefer:
        params["prefer"]["methods"] = ["dpo"]
        pairs["source"] = "file"
    if params["prefer"]["methods"]:
        write_json(folder / PAIRS, pairs_of(records))
        pairs["file"] = PAIRS
    write_text(folder / PARAMS_FILE, yaml.safe_dump(params, sort_keys=False))


def is_missing(root: Path, name: str, instead: str) -> bool:
    """Whether only DVC has a file; if so, print what the smoke run uses instead."""
    if missing := only_in_dvc(root, name):
        print(f"{name}: DVC keeps it and it is not here; the smoke run uses {instead}", flush=True)
    return missing


def first_records(root: Path, split: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The first good records of the data set, wherever it lies."""
    columns = build(Columns, split["columns"], where=f"{PARAMS_FILE}: split.columns")
    rows = picked_rows(root / split["data"], columns)
    return list(islice((picked.values for _, picked in rows if not picked.problems), RECORDS))


def made_up_records() -> list[dict[str, Any]]:
    """Records of random letters, no two of which are near-duplicates."""
    draw = Random(0)

    def words(count: int) -> str:
        return " ".join("".join(draw.choices(ascii_lowercase, k=6)) for _ in range(count))

    return [{"instruction": f"{words(8)}?", "input": "", "output": f"{words(3)}."} for _ in range(RECORDS)]


def pairs_of(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A pair on each prompt: its own answer against that of the next record."""
    asked = ("instruction", "input", "system", "history")
    others = [*records[1:], *records[:1]]
    return [
        {**{name: one[name] for name in asked if name in one}, "chosen": one["output"], "rejected": other["output"]}
        for one, other in zip(records, others, strict=True)
    ]


def overlay(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put nested `changes` into nested `values`, in place."""
    for name, change in changes.items():
        if isinstance(change, Mapping):
            overlay(values[name], change)
        else:
            values[name] = change

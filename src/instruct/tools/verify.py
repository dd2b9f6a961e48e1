"""Runs the committed pipeline again, in a clean clone with an empty cache, and says what comes out differently."""

import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from instruct.errors import InstructError
from instruct.tools.programs import ask_dvc, run_dvc, run_git

LOCK = "dvc.lock"


def verify(root: Path, keep: Path | None = None, *, lock_only: bool = False) -> list[str]:
    """Repeat the commit at HEAD of `root`; returns what differs, one line each, nothing where all bytes are the same.

    With `lock_only` nothing runs, and the lock need only belong to the commit. The clone is kept as `keep` if that is
    given. Raises InstructError where there is nothing to compare with, the lock is not current, or a stage fails.
    """
    if keep:
        if keep.exists() and any(keep.iterdir()):
            raise InstructError(f"{keep}: is not empty; give a new folder")
        return _verify_in(root, keep, lock_only)
    with tempfile.TemporaryDirectory(prefix="instruct-verify-") as folder:
        return _verify_in(root, Path(folder) / "clone", lock_only)


def _verify_in(root: Path, folder: Path, lock_only: bool) -> list[str]:
    clone(root, folder)
    if not (folder / LOCK).is_file():
        raise InstructError(f"{LOCK}: is not committed, so there is nothing to compare with; run dvc repro and commit")
    if stages := stale_stages(folder):
        raise InstructError(
            f"{LOCK}: is not that of this commit: code, settings or data of {' and '.join(stages)} are newer; "
            f"run dvc repro and commit what it changes"
        )
    if lock_only:
        return []
    bring_data(root, folder)
    if run_dvc(folder, "repro", "--force"):
        raise InstructError("the second run failed; the stage's own message stands above")
    return list(differences(folder))


def stale_stages(folder: Path) -> list[str]:
    """The stages that `dvc repro` would run in a clone without data, up to the first that lacks an input."""
    said = ask_dvc(folder, "repro", "--dry", "--allow-missing")
    # The exit status alone does not tell: it is 0 where the first stage, whose data is in Git, would run.
    found = re.findall(r"Running stage '([^']+)'|failed to reproduce '([^']+)'", said.stdout + said.stderr)
    stages = list(dict.fromkeys(one or other for one, other in found))
    if said.returncode and not stages:
        raise InstructError(f"{folder}: dvc repro --dry failed ({(said.stderr.strip().splitlines() or ['?'])[-1]})")
    return stages


def clone(root: Path, folder: Path) -> None:
    """Clone HEAD of `root`, without its cache, its data and whatever is not committed."""
    head = run_git(root, "rev-parse", "HEAD").strip()
    folder.parent.mkdir(parents=True, exist_ok=True)
    run_git(folder.parent, "clone", "--quiet", "--no-checkout", str(root.resolve()), str(folder.resolve()))
    run_git(folder, "checkout", "--quiet", "--detach", head)
    # A cache that the user's own DVC settings share would hand out the first run's results.
    (folder / ".dvc/config.local").write_text("[cache]\n    dir = cache\n", encoding="utf-8")


def bring_data(root: Path, folder: Path) -> None:
    """Copy the data sets that DVC keeps beside a committed .dvc file; DVC then checks them against it."""
    for name in run_git(folder, "ls-files", "*.dvc").splitlines():
        for out in _load_yaml((folder / name).read_text(encoding="utf-8")).get("outs", []):
            path = (Path(name).parent / out["path"]).as_posix()
            if not (root / path).is_file():
                raise InstructError(f"{path}: is not here, {name} describes it; run dvc pull first")
            shutil.copy2(root / path, folder / path)


def differences(folder: Path) -> Iterator[str]:
    """What a finished run in the clone `folder` has changed in its tracked files."""
    changed = run_git(folder, "diff", "--name-only", "HEAD").splitlines()
    new = run_git(folder, "ls-files", "--others", "--exclude-standard").splitlines()
    for name in sorted(changed, key=lambda name: (name != LOCK, name)):
        if not (folder / name).is_file():
            yield f"{name}: is not made any more"
        elif name == LOCK or name.endswith((".json", ".csv")):
            yield from text_differences(
                name, run_git(folder, "show", f"HEAD:{name}"), (folder / name).read_text(encoding="utf-8")
            )
        else:
            yield f"{name}: has other bytes"
    yield from (f"{name}: is made, but not committed" for name in new)


def text_differences(name: str, before: str, after: str) -> Iterator[str]:
    """What differs between two versions of the lock file, a JSON file or a CSV file."""
    if name == LOCK:
        yield from lock_differences(_load_yaml(before), _load_yaml(after))
    elif name.endswith(".json"):
        yield from (f"{name}: {line}" for line in value_differences(json.loads(before), json.loads(after)))
    else:
        yield f"{name}: {row_differences(before, after)}"


def lock_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two dvc.lock files, stage by stage in the pipeline's order.

    A stage whose inputs are the same and whose outputs are not is where the difference begins, and is named so.
    """
    stages = {**before["stages"], **after["stages"]}
    for stage in stages:
        one, two = before["stages"].get(stage), after["stages"].get(stage)
        if one is None or two is None:
            yield f"{LOCK}: {stage}: stands in {'the first' if one else 'the second'} run only"
            continue
        same_inputs = all(one.get(key) == two.get(key) for key in ("cmd", "deps", "params"))
        for path in _changed_paths(one, two, "outs"):
            origin = f"; here it begins, the inputs of {stage} are the same" if same_inputs else ""
            yield f"{LOCK}: {stage}: {path} has other bytes{origin}"
        if not same_inputs and not _changed_paths(one, two, "outs"):
            yield f"{LOCK}: {stage}: other inputs, the same outputs"


def _changed_paths(one: Mapping[str, Any], two: Mapping[str, Any], key: str) -> list[str]:
    sides = [{entry["path"]: entry["md5"] for entry in stage.get(key, [])} for stage in (one, two)]
    return [path for path in {**sides[0], **sides[1]} if sides[0].get(path) != sides[1].get(path)]


def value_differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """The keys of two JSON values that differ, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            inner = f"{key}.{name}" if key else name
            yield from value_differences(before.get(name, "absent"), after.get(name, "absent"), inner)
    elif before != after:
        yield f"{key or 'all of it'} is {_short(after)}, was {_short(before)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def row_differences(before: str, after: str) -> str:
    """How many rows of two CSV files differ, and where they first do."""
    one, two = (list(csv.reader(io.StringIO(text))) for text in (before, after))
    if len(one) != len(two):
        return f"has {len(two) - 1} rows, had {len(one) - 1}"
    other = [i for i, rows in enumerate(zip(one, two, strict=True)) if rows[0] != rows[1]]
    if not other:
        return "has other bytes, the same values"
    return f"{len(other)} of {len(one) - 1} rows differ, first row {other[0]}: {','.join(two[other[0]])}"


def _load_yaml(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe", pure=True).load(text) or {})

"""Runs the committed pipeline again in a clean clone with an empty cache, and reports differences."""

import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instruct.core.errors import InstructError
from instruct.core.files import read_text
from instruct.core.git import call_git, complaint_of
from instruct.core.inputs import PIPELINE, exists
from instruct.core.parsing import parse_yaml
from instruct.results.lock import LOCK, PARAMS, lock_outs
from instruct.tools.own_data import outs_of_dvc_files, own_data, untracked
from instruct.tools.programs import ask_dvc, configure_dvc, git_names, require_new, run_dvc, run_git


def verify(root: Path, keep: Path | None = None, *, lock_only: bool = False) -> list[str]:
    """Repeat the commit at HEAD of `root`; returns one line per difference, nothing if all bytes are the same.

    With `lock_only` nothing runs, and the lock need only belong to the commit. The clone is kept as `keep` if that is
    given. Raises InstructError where there is nothing to compare with, the lock is not current, or a stage fails.
    """
    place = call_git(root, "rev-parse", "--show-prefix")
    if place.returncode or place.stdout.strip():
        reason = f"git refuses it ({complaint_of(place)})" if place.returncode else "is a folder inside a repository"
        raise InstructError(f"{root}: {reason}; run from the repository's root")
    if keep:
        require_new(keep)
        return _verify_in(root, keep, lock_only)
    with tempfile.TemporaryDirectory(prefix="instruct-verify-") as folder:
        try:
            return _verify_in(root, Path(folder) / "clone", lock_only)
        except InstructError as error:  # nobody can look into a folder that is gone
            raise InstructError(re.sub(rf"{re.escape(folder)}(/clone)?", "the clone", str(error))) from None


def _verify_in(root: Path, folder: Path, lock_only: bool) -> list[str]:
    clone(root, folder)
    if missing := missing_from_commit(folder):
        raise InstructError("\n".join(missing))
    brought = own_data(*(_load_yaml(read_text(folder / name), name) for name in (PIPELINE, PARAMS)))
    if lacking := untracked(root, brought, folder):
        raise InstructError("\n".join(lacking))
    if stages := stale_stages(folder):
        raise InstructError(
            f"{LOCK}: is not that of this commit: code, settings or data of {' and '.join(stages)} are newer; "
            f"run dvc repro and commit what it changes"
        )
    if lock_only:
        return []
    bring_data(root, folder)
    if run_dvc(folder, "repro", "--force"):
        raise InstructError("the second run failed; the stage's own message is above")
    return list(differences(folder))


def missing_from_commit(folder: Path) -> list[str]:
    """Stages and outputs that dvc.yaml, dvc.lock or the commit in `folder` lacks, one line each.

    DVC's own check cannot tell: it runs without data, so it excuses every output that is not there. Raises
    InstructError for a file that cannot be read.
    """
    for name, remedy in ((PIPELINE, "commit it"), (PARAMS, "commit it"), (LOCK, "run dvc repro and commit")):
        if not (folder / name).is_file():
            raise InstructError(f"{name}: is not committed, so there is nothing to compare with; {remedy}")
    values = {name: _load_yaml(read_text(folder / name), name) for name in (PIPELINE, PARAMS, LOCK)}
    listed, recorded = (_stage_names(values[name], name) for name in (PIPELINE, LOCK))
    declared = [name for name in listed if exists(values[PIPELINE]["stages"][name], values[PARAMS])]
    lines = [
        f"{LOCK}: has no stage {name}, {PIPELINE} has; run dvc repro and commit"
        for name in declared
        if name not in recorded
    ]
    lines += [
        f"{LOCK}: has a stage {name}, {PIPELINE} has not; delete it there and commit"
        for name in recorded
        if name not in declared
    ]
    return lines + [
        f"{path}: {LOCK} names it, the commit lacks it; run dvc repro and commit"
        for path in lock_outs(values[LOCK])
        # Git, and so no cache of DVC's, keeps what lies in the repository and is not ignored.
        if call_git(folder, "check-ignore", "--quiet", "--", path).returncode == 1
        and not run_git(folder, "--literal-pathspecs", "ls-files", "--", path)
    ]


def _stage_names(values: Mapping[str, Any], name: str) -> dict[str, None]:
    """The stages of dvc.yaml or dvc.lock in order; the many that `foreach` makes of one count as one."""
    stages = values.get("stages")
    if not isinstance(stages, Mapping):
        raise InstructError(f'{name}: holds no mapping "stages"; correct it')
    return dict.fromkeys(str(stage).partition("@")[0] for stage in stages)


def stale_stages(folder: Path) -> list[str]:
    """The stages that `dvc repro` would run in a clone without data, up to the first that lacks an input."""
    with without_results(folder):
        said = ask_dvc(folder, "repro", "--dry", "--allow-missing")
    # The exit status alone does not tell: it is 0 where the first stage, whose data is in Git, would run.
    found = re.findall(r"Running stage '([^']+)'|failed to reproduce '([^']+)'", said.stdout + said.stderr)
    stages = list(dict.fromkeys(one or other for one, other in found))
    if said.returncode and not stages:
        raise InstructError(
            f"{PIPELINE}: DVC refuses this commit ({dvc_complaint(said.stderr)}); correct what it names"
        )
    return stages


@contextmanager
def without_results(folder: Path) -> Iterator[None]:
    """Hide what lies beside missing outputs in the folders that stages read, so that DVC finds these missing too.

    With its README alone, a folder would be another one than the stage has read.
    """
    lock = _load_yaml(read_text(folder / LOCK), LOCK)
    missing = [path for path in lock_outs(lock) if not (folder / path).exists()]
    read = {dep["path"] for stage in lock["stages"].values() for dep in stage.get("deps", [])}
    hidden = sorted(one for one in read if (folder / one).is_dir() and any(p.startswith(f"{one}/") for p in missing))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".instruct-") as aside:
        for place, one in enumerate(hidden):
            (folder / one).rename(Path(aside, str(place)))
        try:
            yield
        finally:
            for place, one in enumerate(hidden):
                Path(aside, str(place)).rename(folder / one)


def dvc_complaint(said: str) -> str:
    """DVC's error in its output: the error line, or the line about invalid content and the next one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for place, line in enumerate(lines):
        if line.startswith("ERROR: "):
            return line.removeprefix("ERROR: ")
        if "validation failed" in line or "is invalid" in line:
            return " ".join(lines[place : place + 2])
    return lines[-1] if lines else "no reason given"


def clone(root: Path, folder: Path) -> None:
    """Clone HEAD of `root`, without its cache, its data and uncommitted files."""
    head = run_git(root, "rev-parse", "HEAD").strip()
    folder.parent.mkdir(parents=True, exist_ok=True)
    run_git(folder.parent, "clone", "--quiet", "--no-checkout", str(root.resolve()), str(folder.resolve()))
    run_git(folder, "checkout", "--quiet", "--detach", head)
    # A cache that the user's own DVC settings share would hand out the first run's results.
    configure_dvc(folder, "[cache]\n    dir = cache\n")


def bring_data(root: Path, folder: Path) -> None:
    """Copy the data that DVC keeps beside a committed .dvc file; DVC then checks them against it."""
    for path, name in outs_of_dvc_files(folder, git_names(folder, "ls-files", "-z")):
        if (root / path).is_dir():
            shutil.copytree(root / path, folder / path)
        elif (root / path).is_file():
            shutil.copy2(root / path, folder / path)
        else:
            raise InstructError(f"{path}: is not here, {name} describes it; run dvc pull first")


def differences(folder: Path) -> Iterator[str]:
    """The changes of a finished run to the tracked files of the clone `folder`."""
    changed = git_names(folder, "diff", "--name-only", "-z", "HEAD")
    new = git_names(folder, "ls-files", "-z", "--others", "--exclude-standard")
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


def text_differences(name: str, before: str, after: str) -> list[str]:
    """What differs between two versions of the lock file, a JSON file or a CSV file; at least that they do."""
    if name == LOCK:
        found = list(lock_differences(_load_yaml(before, name), _load_yaml(after, name)))
    elif name.endswith(".json"):
        found = [f"{name}: {line}" for line in value_differences(json.loads(before), json.loads(after))]
    else:
        found = [f"{name}: {line}" for line in row_differences(before, after)]
    return found or [f"{name}: has other bytes, the same values"]


def lock_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two dvc.lock files, stage by stage in the pipeline's order.

    A stage whose inputs are the same and whose outputs are not is where the difference begins, and is named so.
    """
    stages = {**before["stages"], **after["stages"]}
    for stage in stages:
        one, two = before["stages"].get(stage), after["stages"].get(stage)
        if one is None or two is None:
            yield f"{LOCK}: {stage}: is in {'the first' if one else 'the second'} run only"
            continue
        same_inputs = all(one.get(key) == two.get(key) for key in ("cmd", "deps", "params"))
        for path in _changed_outs(one, two):
            origin = f"; here it begins, the inputs of {stage} are the same" if same_inputs else ""
            yield f"{LOCK}: {stage}: {path} has other bytes{origin}"
        if not same_inputs and not _changed_outs(one, two):
            yield f"{LOCK}: {stage}: other inputs, the same outputs"


def _changed_outs(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    sides = [{entry["path"]: entry["md5"] for entry in stage.get("outs", [])} for stage in (one, two)]
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


def row_differences(before: str, after: str) -> Iterator[str]:
    """How many rows of two CSV files differ, and where they first do."""
    one, two = (list(csv.reader(io.StringIO(text))) for text in (before, after))
    if len(one) != len(two):
        yield f"has {len(two) - 1} rows, had {len(one) - 1}"
    elif other := [i for i, rows in enumerate(zip(one, two, strict=True)) if rows[0] != rows[1]]:
        yield f"{len(other)} of {len(one) - 1} rows differ, first row {other[0]}: {','.join(two[other[0]])}"


def _load_yaml(text: str, name: str) -> dict[str, Any]:
    values = parse_yaml(text, name) or {}
    if not isinstance(values, dict):
        raise InstructError(f"{name}: must be a mapping; correct it")
    return values

"""dvc.lock: which bytes and settings the results beside it belong to."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import md5
from typing import Any

from instruct.core.parsing import flatten, mapping

PARAMS, LOCK = "params.yaml", "dvc.lock"
SHOWN = 60  # characters of a setting


@dataclass(frozen=True, kw_only=True)
class Record:
    """What dvc.lock records of a stage: the md5 of what it read and made, by path, and its sections of params.yaml."""

    read: Mapping[str, str]
    made: Mapping[str, str]
    params: Mapping[str, Any]


def record_of(params: Mapping[str, Any], lock: Mapping[str, Any], name: str) -> Record:
    """The record of the stage NAME, or of NAME@METHOD for the method in use; empty if dvc.lock has none."""
    stage = next(iter(_stages_named(params, lock, name)), {})
    settings = mapping(mapping(stage.get("params")).get(PARAMS))
    return Record(read=dict(_deps(stage)), made=lock_outs({"stages": {name: stage}}), params=settings)


def lock_outs(lock: Mapping[str, Any]) -> dict[str, str]:
    """The md5 of every output that dvc.lock names, by path; empty for one that has none."""
    return {path: str(out.get("md5") or "") for path, out in _outs(lock).items()}


def md5_of(content: bytes) -> str:
    """The md5 by which DVC knows a file."""
    return md5(content, usedforsecurity=False).hexdigest()


def md5_of_folder(files: Mapping[str, str]) -> str:
    """The md5 by which DVC knows a folder with these files, which are paths below it and their md5."""
    listed = [{"md5": digest, "relpath": path} for path, digest in sorted(files.items())]
    return f"{md5_of(json.dumps(listed).encode())}.dir"


def trained_from(params: Mapping[str, Any], lock: Mapping[str, Any]) -> dict[str, str]:
    """What training and its preference pairs were made from, by dvc.lock: the md5 of data and of the backbone's files.

    What the SFT model is in is left out: another seed makes another one, and other answers to make pairs of.
    """
    found: dict[str, str] = {}
    for stage in _stages_named(params, lock, "train", "pairs"):
        found |= {path: digest for path, digest in _deps(stage) if not path.startswith(("src/", "models/"))}
        for path, entries in mapping(stage.get("params")).items():
            files = [mapping(one).get("files") for one in mapping(entries).values()] if path != PARAMS else []
            found |= {path: md5_of(json.dumps(files).encode())} if files else {}
    return found


def training_code(params: Mapping[str, Any], lock: Mapping[str, Any]) -> dict[str, str]:
    """The md5 of the code that training ran, by dvc.lock."""
    stages = _stages_named(params, lock, "train", "pairs", "prefer")
    return {path: digest for stage in stages for path, digest in _deps(stage) if path.startswith("src/")}


def in_folders(files: Mapping[str, str], lock: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Those of `files` that dvc.lock keeps within a folder, by that folder: paths below it and their md5."""
    folders = [path for path, digest in lock_outs(lock).items() if digest.endswith(".dir")]
    below = {
        one: {p.removeprefix(f"{one}/"): d for p, d in files.items() if p.startswith(f"{one}/")} for one in folders
    }
    return {folder: inside for folder, inside in below.items() if inside}


def md5s_of(text: bytes) -> frozenset[str]:
    """The md5 of a text as it is and with either end of lines, since a checkout may have changed them (autocrlf)."""
    plain = text.replace(b"\r\n", b"\n")
    return frozenset(map(md5_of, (text, plain, plain.replace(b"\n", b"\r\n"))))


def stale_lines(params: Mapping[str, Any], files: Mapping[str, Collection[str]], lock: Mapping[str, Any]) -> list[str]:
    """By what results are not those of the settings beside them and of `files`, each by the md5s that it may have.

    Also where a stage of dvc.lock read other bytes than the stage that makes them left: what was edited by hand and
    judged is not what was generated. Empty where dvc.lock fits or is absent. Stages of preference tuning that are
    switched off stay in dvc.lock and say nothing.
    """
    lock = _without_unused(params, lock)
    return list(dict.fromkeys([*_other_settings(params, lock), *_other_bytes(files, lock), *_other_inputs(lock)]))


def _without_unused(params: Mapping[str, Any], lock: Mapping[str, Any]) -> dict[str, Any]:
    """dvc.lock without the stages STAGE@METHOD of methods that the settings do not name."""
    methods = mapping(params.get("prefer")).get("methods")
    used = methods if isinstance(methods, list) else []
    stages = mapping(lock.get("stages"))
    return {
        **lock,
        "stages": {name: one for name, one in stages.items() if "@" not in name or name.split("@")[1] in used},
    }


def _stages_named(params: Mapping[str, Any], lock: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    stages = mapping(_without_unused(params, lock)["stages"])
    return [mapping(stage) for name, stage in stages.items() if name.partition("@")[0] in names]


def _deps(stage: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The paths that a stage read, with their md5."""
    read = stage.get("deps")
    for dep in read if isinstance(read, list) else []:
        yield str(mapping(dep).get("path")), str(mapping(dep).get("md5"))


def _outs(lock: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    listed = [outs for stage in _stages(lock) if isinstance(outs := stage.get("outs"), list)]
    return {str(out["path"]): out for some in listed for out in some if isinstance(out, dict) and "path" in out}


def _stages(lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [stage for stage in mapping(lock.get("stages")).values() if isinstance(stage, dict)]


def _other_settings(params: Mapping[str, Any], lock: Mapping[str, Any]) -> Iterator[str]:
    """Settings of params.yaml that differ from those that the stages of dvc.lock were run with."""
    now = flatten(params)
    absent = object()
    for stage in _stages(lock):
        for key, value in mapping(mapping(stage.get("params")).get(PARAMS)).items():
            then = flatten({key: value})
            for name in dict.fromkeys([*then, *(one for one in now if one == key or one.startswith(f"{key}."))]):
                if now.get(name, absent) != then.get(name, absent):
                    one, other = (_short(side[name]) if name in side else "absent" for side in (now, then))
                    yield f"{name} is {one} in {PARAMS}, {other} in {LOCK}: run dvc repro"


def _other_bytes(files: Mapping[str, Collection[str]], lock: Mapping[str, Any]) -> Iterator[str]:
    outs = lock_outs(lock)
    # What is in a folder can only be told from all of its files.
    exact = {path: one for path, (one, *others) in ((path, [*some]) for path, some in files.items()) if not others}
    whole = {one: some for one, some in in_folders(exact, lock).items() if len(some) == _outs(lock)[one].get("nfiles")}
    folders = {one: frozenset([md5_of_folder(inside)]) for one, inside in whole.items()}
    for path, digests in {**files, **folders}.items():
        if path in outs and outs[path] not in digests:
            yield f"{path} is not the one of {LOCK}: run dvc repro"


def _other_inputs(lock: Mapping[str, Any]) -> Iterator[str]:
    """What a stage read that is not what another one made."""
    outs = lock_outs(lock)
    for name, stage in mapping(lock.get("stages")).items():
        for path, digest in _deps(mapping(stage)):
            if path in outs and digest != outs[path]:
                yield f"{path}, as {name} read it, is not what its own stage made ({LOCK}): run dvc repro"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"

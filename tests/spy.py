"""Runs a stage script and writes down which settings and which files of the project it really uses.

python spy.py RESULT.json src/train.py data/split models/sft metrics/train.json metrics/curves

The result: {"settings": ["train.lr", ...], "read": [paths], "written": [paths]}, relative to the working folder.
"""

import json
import os
import runpy
import sys
from pathlib import Path

HERE = Path.cwd()
# What copies or checks all settings whatever they are for is no use of them.
NO_USE = {"__post_init__", "take_fingerprint", "asdict", "_asdict_inner", "replace", "_replace", "__eq__", "__hash__"}
settings, read, written = set(), set(), set()


def is_use(frame):
    """Whether an attribute is asked for by code that does something with it."""
    while frame and frame.f_code.co_name in ("__getattribute__", "<genexpr>", "<dictcomp>", "<listcomp>"):
        frame = frame.f_back
    return bool(frame) and frame.f_code.co_name not in NO_USE


def watch_settings():
    """Make every settings object that comes from params.yaml tell which of its fields are asked for."""
    from instruct import params

    build = params.build

    def build_and_watch(cls, values, *, where):
        instance = build(cls, values, where=where)
        file, _, section = where.partition(": ")
        if file == params.PARAMS_FILE.name and section:
            object.__setattr__(instance, "__class__", watched(type(instance), section))
        return instance

    params.build = build_and_watch


def watched(cls, section):
    """A subclass that passes for its parent and notes each field that is read."""
    fields = set(cls.__dataclass_fields__)

    def note(self, name):
        if name in fields and is_use(sys._getframe(1)):
            settings.add(f"{section}.{name}")
        return object.__getattribute__(self, name)

    return type(cls.__name__, (cls,), {"__getattribute__": note, "__module__": cls.__module__})


def watch_files(event, arguments):
    """Note which files below the working folder are opened, renamed into place or listed."""
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path, mode, flags = arguments
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else "r" not in (mode or "r")
        note_file(os.fsdecode(path), written if writes else read)
    elif event in ("os.rename", "os.replace"):
        note_file(os.fsdecode(arguments[1]), written)


def note_file(name, into):
    path = Path(os.path.normpath(HERE / name))
    if path.is_relative_to(HERE) and (into is written or path.is_file()):
        into.add(path.relative_to(HERE).as_posix())


if __name__ == "__main__":
    result, script = Path(sys.argv[1]).resolve(), sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(script).parent.resolve())
    sys.dont_write_bytecode = True
    watch_settings()
    sys.addaudithook(watch_files)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        result.write_text(json.dumps({"settings": sorted(settings), "read": sorted(read), "written": sorted(written)}))

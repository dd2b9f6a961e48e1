"""Runs a stage script and writes down what it really uses: settings, files, folders, processes, the environment.

python spy.py RESULT.json src/train.py data/split models/sft metrics/train.json metrics/curves

The result maps each of these to a sorted list, with paths relative to the working folder:

settings     of params.yaml and entries of models/backbones.yaml that are asked for; `params.yaml` itself where anything
             but load_params opens it
read         files that are opened for reading, linked or connected to; on Linux by native code (safetensors, Arrow,
             SQLite) and child processes too, which inotify tells and Python's audit events do not
written      files that are opened for writing, renamed, removed or made by a link
asked        paths whose existence, size or time is asked for, and those opened in vain
listed       folders whose content is listed, as `FOLDER by FILE`, the code of the project that asked for it, if any
processes    child processes that Python starts
environment  variables that code of the project asks for, `*` for all of them

What it cannot see: whether native code asks if a file exists or starts a process; the environment as libraries, native
code and `posix.environ` read it (proxies, OMP_NUM_THREADS); which keys of a mapping among the settings are used; the
clock, the network, and files outside the working folder; what native code opens where there is no inotify (no Linux);
and code that only other settings, data or machines would run.
"""

import ctypes
import dataclasses
import json
import os
import runpy

# Before parts of os are replaced: these take what they need of it once.
import shutil  # noqa: F401
import struct
import subprocess  # noqa: F401
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

HERE = Path.cwd()
TABLE = "models/backbones.yaml"
# What copies or checks all settings whatever they are for is no use of them.
NO_USE = {"__post_init__", "take_fingerprint", "replace", "_replace", "__eq__", "__hash__"}
# What asks on behalf of its caller.
GO_BETWEENS = {"__getattribute__", "<genexpr>", "<dictcomp>", "<listcomp>", "asdict", "_asdict_inner"}
STARTS = {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
KINDS = ("settings", "read", "written", "asked", "listed", "processes", "environment")
used = {kind: set() for kind in KINDS}
opening = threading.local()
lstat, readlink = os.lstat, os.readlink


def is_use(frame):
    """Whether an attribute is asked for by code that does something with it."""
    while frame and frame.f_code.co_name in GO_BETWEENS:
        frame = frame.f_back
    return bool(frame) and frame.f_code.co_name not in NO_USE


def is_ours(frame):
    """Whether code of the project asks, be it through the modules that are frozen into Python (os, posixpath)."""
    while frame and frame.f_code.co_filename.startswith("<frozen "):
        frame = frame.f_back
    return bool(frame) and below_src(frame)


def below_src(frame):
    return (HERE / frame.f_code.co_filename).is_relative_to(HERE / "src")


def is_import(frame):
    """Whether the import system itself asks, which looks for modules and packages in all folders of the path."""
    name = frame.f_code.co_filename
    return name.startswith("<frozen importlib") or "/importlib/" in name


def asker(frame):
    """The nearest code of the project that led here."""
    while frame and not below_src(frame):
        frame = frame.f_back
    return (HERE / frame.f_code.co_filename).relative_to(HERE).as_posix() if frame else ""


def whole(name, folder=-1):
    """The path of what a call names, by the open folder that it is relative to, if any."""
    if isinstance(name, int):  # an open folder itself
        name, folder = "", name
    start = readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else ""
    return Path(os.path.abspath(os.path.join(start, os.fsdecode(name or "."))))


def note(kind, name, folder=-1):
    """Note a path below the working folder."""
    path = whole(name, folder)
    if path.is_relative_to(HERE):
        by = f" by {asker(sys._getframe(2))}" if kind == "listed" else ""
        used[kind].add(path.relative_to(HERE).as_posix() + by)


# Settings


def watch_settings():
    """Make every settings object that comes from params.yaml tell which of its fields are asked for."""
    from instruct.core import params

    build = params.build

    def build_and_watch(cls, values, *, where):
        instance = build(cls, values, where=where)
        file, _, section = where.partition(": ")
        if file == params.PARAMS_FILE.name and section:
            object.__setattr__(instance, "__class__", watched(type(instance), section))
        elif file == TABLE and cls.__name__ == "Backbone":
            object.__setattr__(instance, "__class__", watched(type(instance), f"{TABLE}:{section}", whole=True))
        return instance

    params.build = build_and_watch


def watched(cls, section, whole=False):
    """A subclass that passes for its parent and notes each field that is read, or that any is."""
    fields = {field.name for field in dataclasses.fields(cls)}

    def tell(self, name):
        value = object.__getattribute__(self, name)
        if name in fields and is_use(sys._getframe(1)):
            # Of a mapping it shows no more which of its keys are used.
            field = f"{section}.{name}.*" if isinstance(value, Mapping) else f"{section}.{name}"
            used["settings"].add(section if whole else field)
        return value

    return type(cls.__name__, (cls,), {"__getattribute__": tell, "__module__": cls.__module__})


def through_load_params(frame):
    while frame and frame.f_code.co_name != "load_params":
        frame = frame.f_back
    return bool(frame) and frame.f_code.co_filename.endswith("instruct/core/params.py")


# Files


def watch_events(event, arguments):
    """Note what Python itself tells of files and processes."""
    if event == "open":
        note_open(*arguments)
    elif event in ("os.listdir", "os.scandir") and not is_import(sys._getframe(1)):
        note("listed", arguments[0])
    elif event in ("os.remove", "os.rmdir"):
        note("written", *arguments)
    elif event == "os.truncate":
        note("written", arguments[0])
    elif event in ("os.rename", "os.link"):
        note("read" if event == "os.link" else "written", arguments[0], arguments[2])
        note("written", arguments[1], arguments[3])
    elif event == "os.symlink":
        note("written", arguments[1], arguments[2])
    elif event == "sqlite3.connect":
        note("written", arguments[0])
    elif event in STARTS:
        used["processes"].add(f"{event}: {arguments[0] if arguments else ''}")


def note_open(path, mode, flags):
    if not isinstance(path, str | bytes | os.PathLike):
        return
    path = whole(path, getattr(opening, "folder", -1))
    if flags & (os.O_WRONLY | os.O_RDWR):
        note("written", path)
    elif is_there(path):
        note("read", path)
        if path == HERE / "params.yaml" and not through_load_params(sys._getframe(2)):
            used["settings"].add("params.yaml")
    elif not is_import(sys._getframe(2)):
        note("asked", path)


def is_there(path):
    try:
        lstat(path)
    except OSError:
        return False
    return True


def watch_questions():
    """Note what is asked about files without opening them, of which Python has no events."""
    for name in ("stat", "lstat", "access", "readlink"):
        setattr(os, name, noting(getattr(os, name)))
    open_it = os.open

    def open_and_tell(path, flags, mode=0o777, *, dir_fd=None):
        opening.folder = -1 if dir_fd is None else dir_fd  # which the event leaves out
        try:
            return open_it(path, flags, mode, dir_fd=dir_fd)
        finally:
            opening.folder = -1

    os.open = open_and_tell


def noting(function):
    def ask(path, *arguments, **options):
        if not isinstance(path, int):
            note("asked", path, options.get("dir_fd") or -1)
        return function(path, *arguments, **options)

    for abilities in (os.supports_dir_fd, os.supports_effective_ids, os.supports_fd, os.supports_follow_symlinks):
        if function in abilities:
            abilities.add(ask)
    return ask


class Opened:
    """Tells which files below the working folder anything has opened since, native code and child processes too."""

    OPEN, OVERFLOW, FOLDER = 0x20, 0x4000, 0x40000000

    def __init__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK)
        self.folders = {}
        for folder, _, _ in os.walk(HERE):
            number = libc.inotify_add_watch(self.descriptor, os.fsencode(folder), self.OPEN)
            assert number > 0, f"inotify: {os.strerror(ctypes.get_errno())}"
            self.folders[number] = Path(folder)

    def names(self):
        while True:
            try:
                data = os.read(self.descriptor, 1 << 20)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                number, mask, _, length = struct.unpack_from("iIII", data, at)
                name = os.fsdecode(data[at + 16 : at + 16 + length].rstrip(b"\0"))
                at += 16 + length
                assert not mask & self.OVERFLOW, "inotify lost events"
                if name and not mask & self.FOLDER:
                    yield self.folders[number] / name


# Surroundings


def watch_processes():
    """Note what multiprocessing starts, which Python tells no one."""
    import _posixsubprocess

    start = _posixsubprocess.fork_exec

    def start_and_note(arguments, *others):
        used["processes"].add(f"fork_exec: {os.fsdecode(arguments[0])}")
        return start(arguments, *others)

    _posixsubprocess.fork_exec = start_and_note


class Environment(os._Environ):
    """The environment, noting what code of the project asks for."""

    def __getitem__(self, key):
        if is_ours(sys._getframe(1)):
            used["environment"].add(os.fsdecode(key))
        return super().__getitem__(key)

    def __iter__(self):
        if is_ours(sys._getframe(1)):
            used["environment"].add("*")
        return super().__iter__()


def main(result, script):
    watch_settings()
    watch_processes()
    opened = Opened() if sys.platform == "linux" else None
    sys.addaudithook(watch_events)
    watch_questions()
    os.environ.__class__ = os.environb.__class__ = Environment
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        found = {kind: set(names) for kind, names in used.items()}
        if opened:
            names = {path.relative_to(HERE).as_posix() for path in opened.names()}
            found["read"] |= names - found["written"]
        result.write_text(json.dumps({kind: sorted(names) for kind, names in found.items()}))


if __name__ == "__main__":
    result, script = Path(sys.argv[1]).resolve(), sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(script).parent.resolve())
    sys.dont_write_bytecode = True
    main(result, script)

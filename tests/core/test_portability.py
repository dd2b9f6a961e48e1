"""What an import may need: Windows lacks some modules and signals of POSIX."""

import os
import subprocess
import sys

import pytest

from instruct.core import locks
from instruct.core.errors import InstructError

LACKING = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "posix"}
# Programs for an export, each started on its own; they need the optional packages.
APART = "instruct.exporting.runners"
IMPORT_ALL = f"""
import builtins, importlib, pkgutil, signal, sys
del signal.SIGHUP
usual = builtins.__import__
def without(name, globals=None, *rest, **named):
    if name in {LACKING!r} and str((globals or {{}}).get("__name__")).partition(".")[0] == "instruct":
        raise ImportError(name)
    return usual(name, globals, *rest, **named)
builtins.__import__ = without
import instruct
names = [module.name for module in pkgutil.walk_packages(instruct.__path__, "instruct.")]
for name in names:
    if not name.startswith({APART!r}):
        importlib.import_module(name)
print(len(names))
try:
    exec("import fcntl", {{"__name__": "instruct.probe"}})
except ImportError:
    print("hidden")
"""


def test_every_module_imports_without_what_windows_lacks():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    count, probe = done.stdout.split()
    assert int(count) > 200 and probe == "hidden"


def test_a_system_without_locks_refuses_in_one_line_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    with pytest.raises(InstructError, match="lock") as caught, locks.hold(tmp_path / "lock", "models/sft"):
        raise AssertionError("the block must not run")
    assert "\n" not in str(caught.value)
    assert not before or len(os.listdir("/proc/self/fd")) == before

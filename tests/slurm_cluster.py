"""A Slurm cluster of two nodes on this machine, by Debian's own programs, for the test of the runbook."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("sbatch", "srun", "sinfo", "slurmctld", "slurmd", "munged")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
NODES = ("node1", "node2")
START_S = 120


def missing_programs() -> list[str]:
    """What must be installed before there can be a cluster."""
    return [name for name in PROGRAMS if not shutil.which(name, path=PATH)]


@contextmanager
def start_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Two idle nodes of one processor each; gives the environment in which Slurm's commands find them."""
    for name in ("state", *NODES):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o711)
    key, config = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    config.write_text(_config(folder), encoding="utf-8")
    environment = {"SLURM_CONF": str(config)}
    with ExitStack() as stack:
        munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder / 'munge.socket'}"]
        munge += [f"--{name}-file={folder / f'munge.{name}'}" for name in ("log", "pid", "seed")]
        stack.enter_context(_running(munge, folder))
        _wait(lambda: (folder / "munge.socket").exists(), folder)
        stack.enter_context(_running(["slurmctld", "-D", "-i", "-f", str(config)], folder))
        for node in NODES:
            stack.enter_context(_running(["slurmd", "-D", "-N", node, "-f", str(config)], folder))
        _wait(lambda: _idle(environment) == len(NODES), folder)
        yield environment


def _config(folder: Path) -> str:
    ports = free_ports(1 + len(NODES))
    user = getpass.getuser()
    lines = {
        "ClusterName": "test",
        "SlurmctldHost": f"{socket.gethostname()}(127.0.0.1)",
        "SlurmctldPort": ports[0],
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthInfo": f"socket={folder / 'munge.socket'}",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "%n",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "%n.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
        "SchedulerParameters": "sched_interval=1,sched_min_interval=1",
    }
    nodes = [
        f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs=1"
        for name, port in zip(NODES, ports[1:], strict=True)
    ]
    partition = f"PartitionName=main Nodes={','.join(NODES)} Default=YES State=UP"
    return "".join(f"{line}\n" for line in [*(f"{k}={v}" for k, v in lines.items()), *nodes, partition])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("a") as log:
        program = shutil.which(command[0], path=PATH)
        assert program, command[0]
        process = subprocess.Popen([program, *command[1:]], stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
        assert process.poll() is None, f"{command[0]} ended by itself\n{_logs(folder)}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _idle(environment: dict[str, str]) -> int:
    """How many nodes wait for work."""
    command = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    return len(done.stdout.split())


def _wait(ready, folder: Path) -> None:
    until = time.monotonic() + START_S
    while not ready():
        assert time.monotonic() < until, f"the cluster did not start\n{_logs(folder)}"
        time.sleep(0.2)


def _logs(folder: Path) -> str:
    files = [*sorted(folder.glob("*.out")), *sorted(folder.glob("*.log"))]
    return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in files)

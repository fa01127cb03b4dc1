"""A real Slurm with daemons of its own: on this host alone, or with the hosts of a lab as nodes."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from encamp.testing.waiting import until
from lab import Lab

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"
_CORES = 4
"""Of each node, whatever it has: Slurm is told so."""


def missing() -> str | None:
    """What a Slurm needs and is not there; None if all is."""
    if os.geteuid() != 0:
        return "the right to start Slurm's daemons (root)"
    path = os.environ.get("PATH", "") + SBIN
    return next((name for name in PROGRAMS if shutil.which(name, path=path) is None), None)


@dataclass
class SomeSlurm:
    """One that runs; ``folder`` has its configuration and logs."""

    folder: Path
    run: Callable[..., subprocess.CompletedProcess[str]]
    """Runs one of its commands."""
    variables: dict[str, str]
    """Environment variables for programs that use it."""

    def submit(self, script: str, *options: str, cwd: Path) -> Batch:
        """Queue a script of a shell, which stands in ``cwd``."""
        file = cwd / f"batch-{secrets.token_hex(4)}.sh"
        file.write_text(f"#!/bin/bash\n{script}")
        output = file.with_suffix(".out")
        given = [f"--output={output}", f"--chdir={cwd}", *options, str(file)]
        done = self.run("sbatch", "--parsable", *given)
        assert done.returncode == 0, done.stderr
        return Batch(self, done.stdout.strip(), output)


@dataclass
class Batch:
    """A job of Slurm's."""

    slurm: SomeSlurm
    number: str
    output: Path

    @property
    def printed(self) -> str:
        """What it has printed."""
        return self.output.read_text() if self.output.exists() else ""

    def ended(self, seconds: float = 90.0) -> str:
        """Wait for its end; what it printed."""
        until(lambda: not self._known(), seconds)
        return self.printed

    def _known(self) -> bool:
        done = self.slurm.run("squeue", "--noheader", "--jobs", self.number)
        return bool(done.stdout.strip())


@contextmanager
def some_slurm(folder: Path, lab: Lab | None = None) -> Iterator[SomeSlurm]:
    """Daemons that are up, and end with the block. ``folder`` is there on all nodes."""
    folder = folder / f"slurm-{secrets.token_hex(4)}"
    for name in ("state", "munge"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge/key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(_configuration(folder, lab))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    own = {"PATH": os.environ["PATH"] + SBIN, "SLURM_CONF": str(conf)}
    environment = {**os.environ, **own}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    with ExitStack() as stack:

        def start(*command: str, popen: Any = subprocess.Popen) -> None:
            log = stack.enter_context((folder / f"{command[0]}.log").open("ab"))
            env = environment if popen is subprocess.Popen else own
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": env}
            process = popen(command, **options)
            stack.callback(_end, process)

        names = ("socket", "pid-file", "log-file", "seed-file")
        files = [f"--{name}={folder / 'munge' / name}" for name in names]
        start("munged", "--foreground", "--force", f"--key-file={key}", *files)
        until((folder / "munge/socket").exists)
        start("slurmctld", "-D", "-i", "-f", str(conf))
        for host in lab.hosts if lab else [None]:
            popen = host.popen if host else subprocess.Popen
            start("slurmd", "-D", "-f", str(conf), popen=popen)
        nodes = len(lab.hosts) if lab else 1
        idle = ("sinfo", "--noheader", "--Node", "--states=idle")
        until(lambda: run(*idle).stdout.count("\n") == nodes)
        try:
            yield SomeSlurm(folder, run, own)
        finally:
            run("scancel", "--full", "--signal=KILL", f"--user={os.getuid()}")
            run("scancel", f"--user={os.getuid()}")
            with suppress(AssertionError):
                until(lambda: not run("squeue", "--noheader").stdout.strip(), 20)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _configuration(folder: Path, lab: Lab | None) -> str:
    here = socket.gethostname().partition(".")[0]
    nodes = [(host.name, host.address) for host in lab.hosts] if lab else [(here, "127.0.0.1")]
    ports = _free_ports(2)
    lines = [
        "ClusterName=some",
        f"SlurmctldHost={socket.gethostname()}({lab.address if lab else '127.0.0.1'})",
        f"SlurmctldPort={ports[0]}",
        f"SlurmdPort={ports[1]}",
        f"AuthInfo=socket={folder}/munge/socket",
        *("SlurmUser=root", "AuthType=auth/munge", "MpiDefault=none", "KillWait=5"),
        *("ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "ReturnToService=2"),
        *("SelectType=select/cons_tres", "SelectTypeParameters=CR_Core"),
        *(
            "SlurmdParameters=config_overrides",
            "SchedulerParameters=sched_interval=1,batch_sched_delay=0",
        ),
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        *(f"NodeName={n} NodeAddr={a} CPUs={_CORES} RealMemory=2000" for n, a in nodes),
        f"PartitionName=all Nodes={','.join(name for name, _ in nodes)} Default=YES",
    ]
    return "\n".join([*lines, ""])


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SomeSlurm]:
    """One whose only node is this host, which it takes for one of four cores."""
    lacking = missing()
    need(str(lacking), lacking is None)
    with some_slurm(tmp_path_factory.mktemp("slurm")) as made:
        yield made

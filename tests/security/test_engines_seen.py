"""What a stranger sees of a running cluster: no port of ours, no secret in /proc."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from strangers import as_root, stranger

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.engines.mpi.launch import find_launcher
from encamp.errors import EngineUnavailable, TaskLost

ENGINES = {
    "local": ("local", {}),
    "openmpi": ("mpi", {"mpi": "openmpi"}),
    "mpich": ("mpi", {"mpi": "mpich"}),
    "pvm": ("pvm", {"machine": "own"}),
}
LAUNCHERS = {"mpiexec", "mpiexec.hydra", "hydra_pmi_proxy", "mpirun", "prterun", "prte", "prted"}
"""Programs of the MPIs themselves, which docs/security.md is about."""
SECRET = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
"""How a key of ours would look in hexadecimal."""


def _ours() -> list[psutil.Process]:
    """This process and all that it has started, daemons of PVM among them."""
    mine = psutil.Process()
    daemons = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "pvmd3"]
    return [mine, *mine.children(recursive=True), *daemons]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _ports(process: psutil.Process) -> list[Any]:
    """The TCP ports on which a process listens."""
    try:
        found = process.net_connections(kind="tcp")
    except psutil.Error:
        return []
    return [one.laddr for one in found if one.status == psutil.CONN_LISTEN]


def _is_launcher(process: psutil.Process) -> bool:
    try:
        return process.name() in LAUNCHERS or process.name() == "pvmd3"
    except psutil.Error:
        return True


@pytest.mark.parametrize("name", ENGINES)
def test_nothing_listens_and_nothing_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, options = ENGINES[name]
    if engine == "pvm":
        need("pvm", shutil.which("pvmd") is not None)
        monkeypatch.setenv("PVM_ALLOW_ROOT", "1")
    if engine == "mpi":
        try:
            find_launcher(**options)
        except EngineUnavailable:
            need(name, False)
    before = set(SECRET.findall(_read(os.getpid(), "environ")))
    with Cluster(engine, slots=2, **options) as cluster:
        assert cluster.spawn(os.getpid).result() > 0
        processes = _ours()
        assert len(processes) > 2
        # Ranks inherit the launcher's sockets, and accept nobody there.
        launchers = [port for one in processes if _is_launcher(one) for port in _ports(one)]
        for process in processes:
            assert [port for port in _ports(process) if port not in launchers] == [], process
            words = _read(process.pid, "cmdline") + _read(process.pid, "environ")
            assert set(SECRET.findall(words)) <= before
        seal = cluster._controller.outbox.seal
        assert seal is None or seal._key.hex().encode() not in b"".join(
            _read(process.pid, "environ") for process in processes
        )


def test_mpichs_launcher_is_told_no_variables_but_those_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        find_launcher(mpi="mpich")
    except EngineUnavailable:
        need("mpich", False)
    monkeypatch.setenv("PASSWORD", "open\nsesame")
    with Cluster("mpi", slots=1, mpi="mpich") as cluster:
        assert cluster.spawn(os.getenv, "PASSWORD").result() == "open\nsesame"
        launchers = [one for one in _ours() if _is_launcher(one)]
        assert launchers
        for process in launchers:
            assert b"sesame" not in _read(process.pid, "environ")


PROXY = r"""
exec 3<>"/dev/tcp/127.0.0.1/$1"
printf 'HYD\0\0\0\0\0\377\377\377\177' >&3
cat <&3 || true
"""
"""Be a proxy of another job, which ends MPICH's launcher."""


@as_root
def test_a_job_that_a_stranger_ends_by_mpichs_port_is_started_again_without_restarts() -> None:
    try:
        find_launcher(mpi="mpich")
    except EngineUnavailable:
        need("mpich", False)
    need("bash", shutil.which("bash") is not None)
    with Cluster("mpi", slots=1, mpi="mpich", restarts=0) as cluster:
        first = cluster.spawn(os.getppid).result()
        (launcher,) = [one for one in _ours() if one.name().startswith("mpiexec")]
        lost = cluster.spawn(time.sleep, 60)
        stranger('exec bash -ec "$1" bash "$2"', PROXY, _ports(launcher)[0].port)
        with pytest.raises(TaskLost, match="somebody who is not of the job"):
            lost.result(timeout=60)
        assert cluster.spawn(os.getppid).result(timeout=60) != first


@as_root
def test_no_other_user_reads_the_environment_of_a_slot() -> None:
    with Cluster("local", slots=1) as cluster:
        pid = cluster.spawn(os.getpid).result()
        with pytest.raises(subprocess.CalledProcessError):
            stranger('cat "/proc/$1/environ"', pid)


def test_a_listening_port_would_be_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = _ports(psutil.Process())
        assert server.getsockname()[1] in {address.port for address in ports}

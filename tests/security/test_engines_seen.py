"""What a stranger sees of a running cluster: no port of ours, no secret in /proc."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from strangers import as_root, stranger

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.engines.mpi.find_launcher import find_launcher
from encamp.errors import EngineUnavailable, TaskLost
from some_dask import some_dask
from some_ipyparallel import some_engines

ENGINES = {
    "local": ("local", {}),
    "openmpi": ("mpi", {"mpi": "openmpi"}),
    "mpich": ("mpi", {"mpi": "mpich"}),
    "pvm": ("pvm", {"machine": "own"}),
    "dask": ("dask", {}),
    "ipyparallel": ("ipyparallel", {}),
}
ON_THE_MESH = {"dask", "ipyparallel", "pvm"}
"""Engines whose ends listen for each other."""
LAUNCHERS = {"mpiexec", "mpiexec.hydra", "hydra_pmi_proxy", "mpirun", "prterun", "prte", "prted"}
PVM = {"pvmd", "pvmd3"}
"""Programs of the MPIs and of PVM themselves, which docs/security.md is about."""
SECRET = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
"""How a key of ours would look in hexadecimal."""
PRIVATE = b"PRIVATE KEY"
"""What is in every key of a certificate."""


def _ours() -> list[psutil.Process]:
    """This process and all that it has started, daemons of PVM among them."""
    mine = psutil.Process()
    daemons = [one for one in psutil.process_iter(["name"]) if one.info["name"] in PVM]
    return [mine, *mine.children(recursive=True), *daemons]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _ports(process: psutil.Process) -> list[Any]:
    """The ports on which a process listens, of TCP and UDP."""
    try:
        found = process.net_connections(kind="inet")
    except psutil.Error:
        return []
    waits = (psutil.CONN_LISTEN, psutil.CONN_NONE)
    return [one.laddr for one in found if one.status in waits and not one.raddr]


def _is_launcher(process: psutil.Process) -> bool:
    try:
        return process.name() in LAUNCHERS | PVM
    except psutil.Error:
        return True


@contextmanager
def _theirs(engine: str, folder: Path) -> Iterator[dict[str, Any]]:
    """A cluster of the engine's own system where it takes one, as options."""
    if engine == "dask":
        need("dask", find_spec("distributed") is not None)
        with some_dask(folder, n_workers=1, threads_per_worker=2, security=True) as dask:
            yield dask.options
    elif engine == "ipyparallel":
        need("ipyparallel", find_spec("ipyparallel") is not None)
        with some_engines(folder, 1) as engines:
            yield {**engines.options, "slots": 2}
    else:
        yield {"slots": 2}


def _turns_away(port: Any) -> bool:
    """Whether nobody is heard on a port who has no certificate of the cluster's."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((port.ip, port.port), timeout=30) as link,
            context.wrap_socket(link) as inside,
        ):
            return inside.recv(1) == b""
    except (ssl.SSLError, ConnectionResetError):
        return True


@pytest.mark.parametrize("name", ENGINES)
def test_no_port_and_no_secret_is_visible_to_strangers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    with _theirs(engine, tmp_path) as their:
        known = [port for process in _ours() for port in _ports(process)]
        with Cluster(engine, **options, **their) as cluster:
            assert cluster.spawn(os.getpid).result() > 0
            _check_seen(cluster, known, before)


def _check_seen(cluster: Cluster, known: list[Any], before: set[bytes]) -> None:
    processes = _ours()
    assert len(processes) > 2
    # Ranks inherit the launcher's sockets, and accept nobody there.
    known += [port for one in processes if _is_launcher(one) for port in _ports(one)]
    ours = {port for one in processes for port in _ports(one) if port not in known}
    assert bool(ours) == (cluster._engine.name in ON_THE_MESH), ours
    assert all(map(_turns_away, ours))
    environs = b"".join(_read(one.pid, "environ") for one in processes)
    for words in (environs, *(_read(one.pid, "cmdline") for one in processes)):
        assert set(SECRET.findall(words)) <= before
        assert PRIVATE not in words
    seal = cluster._controller.outbox.seal
    assert seal is None or seal._key.hex().encode() not in environs
    if os.geteuid() == 0:
        there = [one.pid for one in processes if one.is_running()]
        stranger('for pid; do ! cat "/proc/$pid/environ" 2> /dev/null || exit 1; done', *there)


def test_mpich_launcher_gets_only_needed_variables(
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
        with pytest.raises(TaskLost, match="a process outside the job"):
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

"""The engine ``dask`` with workers that it starts on hosts itself."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from encamp import Cluster, cores_and_memory
from encamp.errors import BadJob, EngineUnavailable, TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import PATIENCE
from encamp.testing.waiting import until
from lab import Lab
from reached_hosts import lab, of_clusters, reached

distributed: Any = pytest.importorskip("distributed")

__all__ = ["lab", "reached"]


def test_hosts_have_as_many_slots_as_they_are_to_have(lab: Lab) -> None:
    with Cluster("dask", hosts=["lab1", "lab2:1"]) as cluster:
        slots = {"lab1": cores_and_memory.cores(), "lab2": 1}
        assert {host.name: host.slots for host in cluster.hosts()} == slots
        tasks = [cluster.spawn(socket.gethostname, on=name) for name in ("lab1", "lab2")]
        assert [task.result(PATIENCE) for task in tasks] == ["lab1", "lab2"]
        for host in lab.hosts:
            for pid in of_clusters(host):
                process = psutil.Process(pid)
                assert not any("PRIVATE KEY" in word for word in process.cmdline())
                assert not any("PRIVATE KEY" in word for word in process.environ().values())


def test_strangers_on_the_network_get_no_answer(lab: Lab) -> None:
    with Cluster("dask", hosts=["lab1:1"]):
        listening = lab.hosts[0].run(["ss", "-ltnH"]).stdout
        here = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
        listening += "\n".join(line for line in here.splitlines() if f"pid={os.getpid()}," in line)
        doors = {line.split()[3].rpartition(":")[::2] for line in listening.splitlines()}
        ours = {(a, port) for a, port in doors if a not in ("127.0.0.1", "[::1]") and port != "22"}
        assert len(ours) >= 3  # the scheduler, the worker, the nanny
        for address, port in ours:
            answers = [_answer(one, int(port)) for one in (lab.address, lab.hosts[0].address)]
            assert not any(b"HTTP" in one for one in answers), (address, port, answers)


def _answer(address: str, port: int) -> bytes:
    """What a door says to somebody who speaks no TLS."""
    try:
        with socket.create_connection((address, port), timeout=5) as door:
            door.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            return door.recv(4096)
    except OSError:
        return b""


def test_dead_worker_is_restarted(lab: Lab) -> None:
    with Cluster("dask", hosts="lab1:1,lab2:1") as cluster:
        task = cluster.spawn(work.wait_for_ever, on="lab2")
        worker = next(
            pid for pid, line in of_clusters(lab.hosts[1]).items() if "spawn_main" in line
        )
        os.kill(worker, signal.SIGKILL)
        assert isinstance(task.exception(PATIENCE), TaskLost)
        until(lambda: cluster.slots == 2)
        assert cluster.spawn(socket.gethostname, on="lab2").result(PATIENCE) == "lab2"


def test_a_program_that_is_killed_leaves_nothing_on_hosts(lab: Lab) -> None:
    code = (
        "import time; from encamp import Cluster\n"
        "with Cluster('dask', hosts=['lab1:1', 'lab2:1']):\n"
        "    print('there', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "there\n"
        assert all(of_clusters(host) for host in lab.hosts)
        program.kill()


def test_hosts_that_cannot_be_reached_are_named(lab: Lab) -> None:
    with pytest.raises(EngineUnavailable, match=r"'dask' cannot be used: lab7: ssh: .* not known"):
        Cluster("dask", hosts=["lab1", "lab7"])
    with pytest.raises(EngineUnavailable, match="hosts names no host"):
        Cluster("dask", hosts=[])
    with pytest.raises(
        BadJob, match=r"hosts and hostfile: choose the Dask cluster with one of these"
    ):
        Cluster("dask", hosts=["lab1"], hostfile="hosts")


@contextmanager
def _behind_the_scheduler(lab: Lab) -> Iterator[str]:
    """A scheduler on one host, and a worker on the other, which this host has no way to."""
    first, second = lab.hosts
    port, out = _free_port(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    address = f"tcp://{first.address}:{port}"
    scheduler = ["dask_scheduler", "--host", first.address, "--port", str(port)]
    worker = ["dask_worker", address, "--no-nanny", "--nthreads", "1", "--host", second.address]
    worker += ["--local-directory", str(second.disk)]
    second.run(["ip", "route", "add", "unreachable", lab.address])
    try:
        with ExitStack() as ends:
            for host, (program, *options) in ((first, scheduler), (second, worker)):
                words = [sys.executable, "-m", f"distributed.cli.{program}", *options]
                process = ends.enter_context(host.popen([*words, "--no-dashboard"], **out))
                ends.callback(process.terminate)
            yield address
    finally:
        second.run(["ip", "route", "del", "unreachable", lab.address])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_worker_that_reaches_only_the_scheduler_works(lab: Lab, tmp_path: Path) -> None:
    with _behind_the_scheduler(lab) as address:
        with distributed.Client(address, set_as_default=False, timeout=60) as client:
            client.wait_for_workers(1, timeout=60)
            with Cluster(client) as cluster:
                (host,) = cluster.hosts()
                assert (host.name, host.frames_by) == ("lab2", "Dask's scheduler")
                task = cluster.spawn(len, b"x" * 3_000_000, on="lab2")
                assert task.result(PATIENCE) == 3_000_000
            handlers = client.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.handlers])
            assert not any("encamp" in name for name in handlers)
        command = [sys.executable, "-m", "encamp", "doctor", "-e", "dask"]
        done = subprocess.run(
            [*command, "-o", f"address={address}", tmp_path], capture_output=True, text=True
        )
    assert re.search(r"note +frames +go through Dask's scheduler", done.stdout), done
    assert re.search(
        rf"note +ports +cannot connect to any port of {socket.gethostname()}\n", done.stdout
    ), done

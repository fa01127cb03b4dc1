"""The engine ``ipyparallel`` with engines that it starts on hosts itself."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import ipyparallel
import psutil
import pytest

from encamp import Cluster, cores_and_memory
from encamp.errors import EngineUnavailable
from encamp.testing.conformance.bound import PATIENCE
from encamp.testing.waiting import gone, until
from lab import Lab
from reached_hosts import lab, of_clusters, reached

__all__ = ["lab", "reached"]


def test_hosts_have_as_many_slots_as_they_are_to_have(lab: Lab) -> None:
    with Cluster("ipyparallel", hosts=["lab1", "lab2:2"]) as cluster:
        slots = {"lab1": cores_and_memory.cores(), "lab2": 2}
        assert {host.name: host.slots for host in cluster.hosts()} == slots
        tasks = [cluster.spawn(socket.gethostname, on=name) for name in ("lab1", "lab2")]
        assert [task.result(PATIENCE) for task in tasks] == ["lab1", "lab2"]
        ours = of_clusters(lab.hosts[0])
        engines = [pid for pid, line in ours.items() if "-m ipyparallel.engine --file" in line]
        assert len(engines) == 1  # which has both slots
        file = "/tmp/encamp-ipyparallel-*/ipcontroller-engine.json"
        command = ["sh", "-c", f"stat -c %a {file}; cat {file}"]
        mode, _, connection = lab.hosts[0].run(command).stdout.partition("\n")
        assert mode == "600"
        keys = [v for name, v in json.loads(connection).items() if name.startswith("curve_")]
        assert keys
        for process in map(psutil.Process, ours):
            seen = "\n".join((*process.cmdline(), *process.environ().values()))
            assert not any(key in seen for key in keys)


def test_a_program_that_is_killed_leaves_nothing_on_hosts(lab: Lab) -> None:
    code = (
        "import time; from encamp import Cluster\n"
        "with Cluster('ipyparallel', hosts=['lab1:2', 'lab2:1']) as cluster:\n"
        "    print(cluster.slots, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "3\n"
        assert all(of_clusters(host) for host in lab.hosts)
        family = psutil.Process(program.pid).children(recursive=True)
        assert len(family) >= 3  # the controller's starter, the controller, ssh
        program.kill()
    until(lambda: all(gone(one.pid) for one in family))


def test_hosts_that_cannot_be_reached_are_named(lab: Lab) -> None:
    with pytest.raises(EngineUnavailable, match=r"cannot be used: lab7: ssh: .* not known"):
        Cluster("ipyparallel", hosts=["lab1", "lab7"])


@contextmanager
def _behind_the_controller(lab: Lab, folder: Path) -> Iterator[Path]:
    """A controller on one host, and an engine on the other, which this host has no way to.

    The client's connection file.
    """
    first, second = lab.hosts
    out = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    profile = first.disk / "profile"
    controller = ["ipyparallel.controller", f"--ip={first.address}", f"--location={first.address}"]
    files = profile / "security"
    second.run(["ip", "route", "add", "unreachable", lab.address])
    try:
        with ExitStack() as ends:
            words = [sys.executable, "-m", *controller, f"--profile-dir={profile}"]
            process = ends.enter_context(first.popen(words, **out))
            ends.callback(process.terminate)
            ours, theirs = (
                first.path(files / f"ipcontroller-{whose}.json") for whose in ("client", "engine")
            )
            until(lambda: ours.exists() and theirs.exists() and theirs.stat().st_size > 0)
            copy = second.path(second.disk / "ipcontroller-engine.json")
            copy.write_bytes(theirs.read_bytes())
            client = folder / "ipcontroller-client.json"
            client.write_bytes(ours.read_bytes())
            second.path(second.disk / "profile").mkdir(exist_ok=True)
            words = ["ipyparallel.engine", f"--file={second.disk / copy.name}"]
            words += [f"--profile-dir={second.disk / 'profile'}"]
            process = ends.enter_context(second.popen([sys.executable, "-m", *words], **out))
            ends.callback(process.terminate)
            yield client
    finally:
        second.run(["ip", "route", "del", "unreachable", lab.address])
        for pid in (pid for host in lab.hosts for pid in of_clusters(host)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # the controller's and the engine's children


_HANDLERS = (
    "[*__import__('ipyparallel.engine.kernel', fromlist=['kernel'])"
    ".IPythonParallelKernel.instance().control_handlers]"
)
"""Code for an engine: the types of control messages that it handles."""


def test_an_engine_that_reaches_only_the_controller_works(lab: Lab, tmp_path: Path) -> None:
    with _behind_the_controller(lab, tmp_path) as file:
        with ipyparallel.Client(str(file), timeout=60) as client:
            client.wait_for_engines(1, timeout=60, interactive=False)
            with Cluster(client) as cluster:
                (host,) = cluster.hosts()
                assert (host.name, host.frames_by) == ("lab2", "ipyparallel's controller")
                task = cluster.spawn(len, b"x" * 3_000_000, on="lab2")
                assert task.result(PATIENCE) == 3_000_000
                busy = client[:].apply_async(time.sleep, 3)  # the engine's own work
                assert cluster.spawn(abs, -7).result(PATIENCE) == 7
                assert not busy.ready()
            until(lambda: "encamp_tunnel" not in client[0].apply_sync(eval, _HANDLERS))
            assert "abort_request" in client[0].apply_sync(eval, _HANDLERS)
        command = [sys.executable, "-m", "encamp", "doctor", "-e", "ipyparallel"]
        done = subprocess.run(
            [*command, "-o", f"connection_file={file}", tmp_path], capture_output=True, text=True
        )
    assert re.search(r"note +frames +go through ipyparallel's controller", done.stdout), done

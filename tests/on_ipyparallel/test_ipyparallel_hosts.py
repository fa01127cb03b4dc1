"""The engine ``ipyparallel`` with engines that it starts on hosts itself."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import psutil
import pytest

from encamp import Cluster, quota
from encamp.errors import EngineUnavailable
from encamp.testing.conformance.bound import PATIENCE
from encamp.testing.waiting import gone, until
from lab import Lab
from reached_hosts import lab, of_clusters, reached

__all__ = ["lab", "reached"]


def test_hosts_have_as_many_slots_as_they_are_to_have(lab: Lab) -> None:
    with Cluster("ipyparallel", hosts=["lab1", "lab2:2"]) as cluster:
        slots = {"lab1": quota.cores(), "lab2": 2}
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

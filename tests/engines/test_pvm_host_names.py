"""Host names for PVM, and error messages and cleanup when hosts cannot be added."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from lab_suite import remains

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.errors import BadJob, EngineFailed, EngineUnavailable
from encamp.testing.conformance.bound import PATIENCE
from encamp.testing.waiting import children_with, until
from lab import Lab, missing

if shutil.which("pvmd"):
    from encamp.engines.pvm import libpvm
    from encamp.engines.pvm.host_names import addresses_in, host_names
    from encamp.engines.pvm.why_not_added import why_not_added

LOG = """\
[t80040000] 11/21 19:24:06 ready Sat Nov 21 19:24:06 2026
[t80000000] 11/21 19:24:06 stdout@10.0.0.1: {message}
[t80000000] 11/21 19:24:06 stdout@10.0.0.1:
[t80000000] 11/21 19:24:06 stdout@10.0.0.1: EOF
[t80040000] 11/21 19:24:06 startack() host lab1 expected version, got "PvmCantStart"
"""


@pytest.fixture(autouse=True)
def pvm(monkeypatch: pytest.MonkeyPatch) -> None:
    need("pvm", shutil.which("pvmd") is not None)
    monkeypatch.setenv("PVM_ALLOW_ROOT", "1")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lacking = missing()
    need(str(lacking), lacking is None)
    with (
        Lab(2, variables={"PVM_ALLOW_ROOT": "1"}) as lab,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in lab.environment.items():
            patch.setenv(name, value)
        yield lab


def options(lab: Lab) -> dict[str, Any]:
    hosts = [f"{host.name} ip={host.address}" for host in lab.hosts]
    return {"machine": "own", "address": lab.address, "hosts": hosts, "slots": 2}


def nothing_left(lab: Lab) -> bool:
    return not any(map(remains, lab.hosts))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("** need to *run* PVM as a *regular* user!", "set PVM_ALLOW_ROOT=1 on lab1, for non-int"),
        ("ssh: connect to host 10.0.0.1 port 22: No route to host", "No route to host"),
        ("root@10.0.0.1: Permission denied (publickey).", "Permission denied; my_ssh must get"),
        ("Host key verification failed.", "Host key verification failed; log in once by hand"),
        ("phase1() execvp failed", "the remote shell my_ssh, which PVM_RSH names, cannot be run"),
        ("pvmd: no luck", "the PVM daemon cannot be started there: pvmd: no luck"),
    ],
)
def test_reasons_are_in_plain_words(message: str, reason: str) -> None:
    why = why_not_added(
        {"lab1 ip=10.0.0.1 dx=/some/pvmd": -29}, LOG.format(message=message), "my_ssh"
    )
    assert why.startswith(f"hosts could not be added: lab1: {reason}")
    assert "dx=" not in why
    assert "\n" not in why


def test_reasons_say_what_to_do() -> None:
    why = why_not_added({"lab1": libpvm.NO_HOST, "lab2": -29}, "", "ssh")
    assert why.endswith('"lab1 ip=10.0.0.2"; lab2: the PVM daemon cannot be started there')
    loopback = dict.fromkeys(("lab1", "lab2"), libpvm.LOOPBACK)
    assert why_not_added(loopback, "", "ssh").count("loopback") == 1
    assert "--option address=10.0.0.5" in why_not_added(loopback, "", "ssh")
    assert why_not_added(loopback, "", "ssh").endswith("pvm -n10.0.0.5 for one that you start")


def test_hosts_that_are_named_twice_are_taken_once() -> None:
    assert host_names(["b ip=1.2.3.4", "a", " b  ip=5.6.7.8 ", "a"]) == ["b ip=1.2.3.4", "a"]
    assert host_names("a") == ["a"]


def test_addresses_are_found_in_the_options_of_hosts() -> None:
    hosts = ["a", "b ip=1.2.3.4", "c lo=me ip=5.6.7.8 dx=/some/pvmd", "dip=9"]
    assert addresses_in(hosts) == {"b": "1.2.3.4", "c": "5.6.7.8"}


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"hosts": hosts}
            for hosts in (3, [3], "lab1:3", "", "&lab1", "-x", "lab1 lab2", "a zz=3", [["a"]])
        ),
        *({"restarts": value} for value in ("x", -1, "3.0", None, True)),
        *({"per_agent": value} for value in ("x", 0, 1.5)),
        {"python": 3.11},
        {"address": 10},
    ],
)
def test_impossible_options_are_input_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadJob, match=r"not|PVM"):
        Cluster("pvm", machine="own", **wrong)


@pytest.mark.parametrize("address", ["nonsense.invalid", "203.0.113.7"])
def test_an_address_of_another_host_is_refused_by_its_name(address: str) -> None:
    with pytest.raises(
        EngineUnavailable, match=(f"address='{address}' is not an address of this host")
    ):
        Cluster("pvm", machine="own", address=address)


def test_mpi_slot_numbers_are_not_part_of_names() -> None:
    with pytest.raises(BadJob, match="PVM takes no number of slots"):
        host_names("lab1:3")


def test_failed_machine_leaves_nothing_on_joined_hosts(lab: Lab) -> None:
    given = options(lab)
    with pytest.raises(EngineFailed, match="added: lab9: no such host"):
        Cluster("pvm", **{**given, "hosts": [*given["hosts"], "lab9"]})
    assert nothing_left(lab)
    with pytest.raises(EngineFailed, match="no such file"):
        Cluster("pvm", **given, python="/no/python")
    assert nothing_left(lab)


def test_a_cluster_does_not_wait_at_its_end_for_hosts_that_it_has_added(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it did, the end would take longer than a test may."""
    monkeypatch.setattr("encamp.engines.kit.mesh.engine.ALL_END", 1000.0)
    given = options(lab)
    first, second = given.pop("hosts")
    with Cluster("pvm", **given, hosts=first) as cluster:
        with pytest.raises(BadJob, match="names of hosts"):
            cluster.add_hosts(3)  # type: ignore[arg-type]
        cluster.add_hosts(second)
    until(lambda: nothing_left(lab))


def test_an_interrupt_while_hosts_are_added_is_one_and_leaves_nothing(lab: Lab) -> None:
    script = f"from encamp import Cluster\nCluster('pvm', **{options(lab)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        until(lambda: children_with("pvm.add_hosts_process", program.pid))
        os.killpg(program.pid, signal.SIGINT)
        output = program.communicate(timeout=PATIENCE)[1]
    assert output.endswith("\nKeyboardInterrupt\n")
    assert program.returncode == -signal.SIGINT
    until(lambda: nothing_left(lab))

"""What hosts do before their slots start: a command of the shell, and a niceness."""

from __future__ import annotations

import os
import socket

import pytest

from encamp.agent.init_command import environment_after
from encamp.cluster.cluster import Cluster
from encamp.errors import BadJob, EngineFailed, NoSuchHost, UnsupportedByEngine
from encamp.testing.fake import FakeEngine


def _look() -> tuple[int, str | None, str | None, str | None]:
    environ = os.environ
    return os.nice(0), environ.get("FROM_INIT"), environ.get("OMP_NUM_THREADS"), environ.get("LEFT")


def _change() -> None:
    os.environ["FROM_INIT"] = "changed"


def test_slots_have_the_environment_and_niceness_that_is_said_for_their_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEFT", "not for slots")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    command = 'echo noise; FROM_INIT="two words"\nexport FROM_INIT OMP_NUM_THREADS=7; unset LEFT;'
    own = {"*": "exit 3", socket.gethostname(): command}
    before = os.nice(0)
    with Cluster("local", slots=1, init_command=own, niceness=2) as cluster:
        expected = before + 2, "two words", "7", None
        assert cluster.spawn(_look).result(20) == expected
        cluster.spawn(_change).result(20)
        assert cluster.spawn(_look).result(20) == expected  # what tasks change is undone
        assert cluster.spawn(_look, fresh=True).result(20) == expected
    assert os.environ["LEFT"] == "not for slots"


def test_hosts_may_have_others() -> None:
    engine = FakeEngine(slots=[1, 1])
    with Cluster(engine, init_command={"fake-1": "export FROM_INIT=1"}, niceness={}) as cluster:
        found = {host.name: cluster.spawn(_look, on=host).result(20)[1] for host in cluster.hosts()}
    assert found == {"fake-1": "1", "fake-2": None}


def test_what_cannot_be_done_is_told() -> None:
    with pytest.raises(EngineFailed, match="'exit 3': it ended with 3"):
        Cluster("local", slots=1, init_command="exit 3")
    with pytest.raises(BadJob, match=r"it ended with 1: no such module"):
        environment_after("echo no such module >&2; false", {"PATH": os.environ["PATH"]})
    with pytest.raises(NoSuchHost, match="nowhere"):
        Cluster("local", slots=1, niceness={"nowhere": 3})
    for options in ({"init_command": 3}, {"niceness": "high"}, {"niceness": {"*": 1.5}}):
        with pytest.raises(BadJob):
            Cluster("local", slots=1, **options)
    with pytest.raises(UnsupportedByEngine, match="init_command"):
        Cluster("local", slots=1, inline=True, init_command="true")

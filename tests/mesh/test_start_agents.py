"""Agents beside a process of another system: their settings, output and end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from encamp.cluster.cluster import Cluster
from encamp.engines.kit import start_agents
from encamp.engines.kit.start_agents import Order, environment, host_id
from encamp.errors import EngineFailed
from encamp.testing import work
from encamp.testing.conformance.bound import results
from encamp.testing.waiting import children_with, gone, until
from encamp.version import __version__


def agents() -> list[psutil.Process]:
    return children_with("encamp.agent")


def test_run_key_is_in_no_command_line_or_environment() -> None:
    with Cluster("mesh", slots=2) as cluster:
        identity = cluster._engine._identity  # type: ignore[attr-defined]
        secret = identity.key.splitlines()[1].encode()
        family = [child for agent in agents() for child in (agent, *agent.children())]
        assert len(family) == 4
        for process in family:
            for file in ("cmdline", "environ"):
                assert secret not in Path(f"/proc/{process.pid}/{file}").read_bytes()


def test_an_agent_that_dies_alone_is_started_again() -> None:
    with Cluster("mesh", slots=2) as cluster:
        victim, other = agents()
        slots = [child.pid for child in victim.children()]
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: {one.pid for one in agents()} - {victim.pid, other.pid})
        until(lambda: cluster.slots == 2)
        until(lambda: all(map(gone, slots)))
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20


def test_output_of_agent_that_fails_to_start_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start_agents, "START", "raise SystemExit('there is no such thing')")
    with pytest.raises(EngineFailed, match="there is no such thing"):
        Cluster("mesh", slots=1)


def test_missing_python_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_agents, "python_command", lambda: ["/there/is/none"])
    with pytest.raises(EngineFailed, match="/there/is/none"):
        Cluster("mesh", slots=1)


@pytest.mark.parametrize("here", [True, False])
def test_the_environment_of_an_agent(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("OMP_NUM_THREADS", "1"),
        ("MKL_NUM_THREADS", "3"),
        ("PMI_RANK", "2"),
        ("IPP_CONNECTION_INFO", "secret"),
        ("PARALLEL_X", "the host's"),
        ("MINE", "kept"),
    ):
        monkeypatch.setenv(name, value)
    variables = {"PARALLEL_X": "the program's", "PARALLEL_Y": "y", "ENCAMP_Z": "z"}
    order = Order("run", "", "", [], host_id() if here else "another host", variables)
    found = environment(order, {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PMI_RANK", "IPP_CONNECTION_INFO", "MINE")
    assert [found.get(name) for name in names] == [None, "3", None, None, "kept"]
    theirs = [found.get(name) for name in variables]
    assert theirs == (["the program's", "y", "z"] if here else ["the host's", "y", None])


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("encamp", "its Python has no encamp; install it for the Python of my workers"),
        (
            "encamp.other",
            f"its Python has a different version of encamp; install {__version__}, the",
        ),
        ("encampment", "ModuleNotFoundError: No module named 'encampment'"),
    ],
)
def test_missing_package_on_host_is_reported(module: str, why: str) -> None:
    exc = ModuleNotFoundError(f"No module named {module!r}")
    assert start_agents.why_not(exc, "my workers").startswith(why)

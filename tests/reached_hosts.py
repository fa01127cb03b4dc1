"""Two hosts of a lab on which engines start what they need themselves; nothing is to stay there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conftest import need
from encamp.testing.waiting import until
from lab import Host, Lab, missing

_MARKS = ("encamp.engines", "encamp.agent", "encamp.slot", "spawn_main", "ipyparallel")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Those hosts, named ``lab1`` and ``lab2``."""
    lacking = missing()
    need(str(lacking), lacking is None)
    with Lab(2) as made:
        yield made


@pytest.fixture(autouse=True)
def reached(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ssh gets there during a test; afterwards no process of a cluster is left."""
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    yield
    for host in lab.hosts:
        until(lambda host=host: of_clusters(host) == {})  # type: ignore[misc]


def of_clusters(host: Host) -> dict[int, str]:
    """The processes that are there for a cluster, and their command lines."""
    return {p: line for p, line in host.commands().items() if any(mark in line for mark in _MARKS)}

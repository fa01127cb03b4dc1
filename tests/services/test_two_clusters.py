"""Services of one cluster in tasks of another: correct calls, or a clear error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from encamp.cluster.cluster import Cluster
from encamp.services.service import Service

SOON = 30.0


class Named:
    """Says whose server it is."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name


def name_of(service: Service) -> object:
    return service.call("name").get(SOON)


@pytest.fixture
def clusters() -> Iterator[dict[str, Cluster]]:
    with Cluster("local", slots=2) as one, Cluster("local", slots=2) as other:
        yield {"one": one, "other": other}


def test_a_task_never_calls_a_server_of_its_own_cluster_instead(
    clusters: dict[str, Cluster],
) -> None:
    services = {name: each.publish(Named, name, count=1) for name, each in clusters.items()}
    for service in services.values():
        service.ready(1, SOON)
    assert clusters["one"].spawn(name_of, services["one"]).result(SOON) == "one"
    with services["other"].acquire() as proxy:
        for what in (services["other"], proxy):
            with pytest.raises(RuntimeError, match="created its cluster"):
                clusters["one"].spawn(name_of, what).result(SOON)


def test_tasks_that_are_threads_of_the_program_call_as_the_program_does(
    clusters: dict[str, Cluster],
) -> None:
    service = clusters["one"].publish(Named, "one", count=1)
    with Cluster("local", slots=1, inline="threads") as threads:
        assert threads.spawn(name_of, service).result(SOON) == "one"

"""How services are published, and how a cluster ends whose servers have all slots."""

from __future__ import annotations

import os
import threading

import pytest

from encamp import gather
from encamp.cluster.cluster import Cluster
from encamp.errors import (
    BadJob,
    ServerLost,
    ServiceEnded,
    ServiceError,
    ServiceFailed,
    UnknownOption,
)

SOON = 30.0


class Adder:
    def add(self, number: int) -> int:
        return number + 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("wait", ["ready", "call", "none"])
def test_a_cluster_ends_though_a_service_waits_for_slots_of_another(wait: str) -> None:
    with Cluster("local", slots=1) as cluster:
        cluster.publish(Adder, count=1).ready(timeout=SOON)
        other = cluster.publish(Adder, name="other", count=1)
        call = other.call("add", 1) if wait == "call" else None
        if wait == "ready":
            with pytest.raises(TimeoutError, match="1 wait for free slots"):
                other.ready(timeout=0.1)
    if call is not None:
        with pytest.raises(ServiceEnded):
            call.get(SOON)


@pytest.mark.timeout(60)
def test_what_waits_behind_servers_that_have_all_slots_runs_when_they_end() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Adder, count=1)
        service.ready(timeout=SOON)
        task = cluster.spawn(abs, -1)
        answer = service.call("add", 1)
    assert task.result(SOON) == 1
    assert answer.get(SOON) == 2


@pytest.mark.parametrize(
    ("given", "meant"), [("checkpoints_every", "checkpoint_every"), ("time_limit", "idle_limit")]
)
def test_an_option_that_is_none_of_publish_is_refused(given: str, meant: str) -> None:
    with Cluster("local", slots=1) as cluster, pytest.raises(UnknownOption) as caught:
        cluster.publish(Adder, **{given: 1})  # type: ignore[misc]
    assert f"no option {given!r}" in str(caught.value)
    assert meant in str(caught.value)
    assert "call_limit" in str(caught.value)
    assert "persistent" not in str(caught.value)


class Unsaved(Adder):
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Unrestored(Adder):
    def checkpoint(self) -> str:
        return "old"

    def restore(self, state: str) -> None:
        raise ValueError("old format")

    def end(self) -> None:
        os._exit(3)


def test_a_state_that_cannot_be_saved_is_named() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Unsaved, checkpoint_every=1)
        assert service.call("add", 1).get(SOON) == 2
        with pytest.raises(
            ServiceError, match=r"state of Unsaved could not be saved: .*pickle"
        ) as e:
            service.call("add", 1).get(SOON)
        assert "check the object's checkpoint() and restore()" in str(e.value)


def test_a_state_that_cannot_be_restored_is_named() -> None:
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Unrestored, checkpoint_every=1, restarts=1)
        service.call("add", 1).get(SOON)
        with pytest.raises(ServerLost, match="acquire another server"):
            service.call("end").get(SOON)
        with pytest.raises(ServiceFailed, match=r"last saved state of Unrestored .*old format"):
            service.call("add", 1).get(SOON)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [3, None, "", b"add"])
def test_what_names_no_method_is_refused_and_the_servers_go_on(name: object) -> None:
    method: str = name  # type: ignore[assignment]
    with Cluster("local", slots=1) as cluster:
        service = cluster.publish(Adder)
        for call in (
            lambda: service.call(method, 1),
            lambda: service.broadcast(method, 1),
            lambda: service.scatter(method, [1]),
            lambda: service.map(method, [1]),
        ):
            with pytest.raises(BadJob, match="Adder: name a method or an attribute"):
                call()
        with service.acquire(SOON) as proxy:
            for read in (proxy.call, proxy.read):
                with pytest.raises(BadJob, match="Adder: name a method or an attribute"):
                    read(method)
        assert service.call("add", 1).get(SOON) == 2


def test_arguments_and_results_of_the_wrong_kind_are_refused() -> None:
    with Cluster("local", slots=1) as cluster:
        with pytest.raises(BadJob, match=r"kwargs: must be a dict of named arguments, not \[1\]"):
            cluster.publish(Adder, kwargs=[1])  # type: ignore[typeddict-item]
        with pytest.raises(TypeError, match=r"gather takes results of calls.*not 1"):
            gather([1])  # type: ignore[list-item]

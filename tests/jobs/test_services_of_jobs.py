"""Jobs whose steps call services of the program; the report has the statistics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import encamp
from encamp.cluster.cluster import Cluster
from encamp.jobs.report.read_report import read_report
from encamp.services.proxy import Proxy
from encamp.testing import served, work

SOON = 30.0
Run = Callable[..., tuple[encamp.JobReport, encamp.Service]]


def test_the_report_tells_what_the_services_on_its_cluster_have_done(here: Path) -> None:
    with Cluster("local", slots=3) as cluster:
        dead = cluster.publish(served.Counter, count=1, name="gone")
        dead.call("add").get(20)
        dead.terminate()
        service = cluster.publish(served.Counter, count=1)
        service.call("add").get(20)
        job = encamp.Job("with services", to="results")
        job.add("one", encamp.call(work.add, 1))
        report = job.run(cluster)
        service.call("add").get(20)
    gone, counter = report.services
    assert (counter.service, counter.calls, [one.calls for one in counter.servers]) == (
        "Counter",
        1,
        [1],
    )
    assert (gone.service, gone.calls, gone.servers) == ("gone", 1, ())
    assert gone.former[0].state == "ended"
    assert str(report.services) == f"{gone}\n\n{counter}"
    assert "Counter: 1 of 1 servers, 0 waiting, 0 lost\nserver  host" in str(report.services)
    again = read_report(Path("results/with services.job/report.json"))
    assert again == report
    assert str(again.services) == str(report.services)


class Model:
    """Remembers what it is called with."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def see(self, what: object) -> list[object]:
        self.seen.append(what)
        return self.seen

    def double(self, array: np.ndarray) -> np.ndarray:
        return 2 * array

    def fail(self) -> None:
        raise ZeroDivisionError("in the model")


def _use(service: encamp.Service, name: str) -> dict[str, object]:
    assert service.ready(1, SOON) == 1
    with service.acquire(SOON) as mine:
        first, second = mine.see(f"{name} 1"), mine.see(f"{name} 2")
        both = second.get(SOON)[-2:], first.get(SOON)[-1]
        seen = len(mine.seen.get(SOON))
    array = np.arange(100_000)
    with pytest.raises(ZeroDivisionError, match="in the model") as raised:
        service.call("fail").get(SOON)
    assert "in the model" in str(raised.value.__cause__)
    calls = list(service.map("see", [f"{name} 3", f"{name} 4"]))
    return {
        "own": str(both),
        "seen": seen,
        "doubled": int(service.call("double", array).get(SOON).sum() - 2 * array.sum()),
        "last": str(calls[-1][-1]),
        "all": len(encamp.gather(service.broadcast("see", name))),
    }


@pytest.fixture(params=["its own executor", "the services' cluster"])
def ran(request: pytest.FixtureRequest, here: Path) -> Iterator[Run]:
    """Runs a job of one task, which is given a service with one server."""
    with Cluster("local", slots=3) as cluster:
        service = cluster.publish(Model, count=1)

        def run(*steps: Any, **options: Any) -> tuple[encamp.JobReport, encamp.Service]:
            job = encamp.Job("calls", to="results")
            job.add("one", [encamp.call(step, service, *args) for step, *args in steps])
            on = cluster if "cluster" in request.param else None
            return job.run(on, check=False, **options), service

        yield run


def test_a_step_calls_services_as_a_task_does(ran: Run) -> None:
    report, service = ran((_use, "a"), (_use, "b"))
    assert report["one"].state == "done", report["one"].why
    assert report["one"].value == {
        "own": "(['b 1', 'b 2'], 'b 1')",
        "seen": 7,
        "doubled": 0,
        "last": "b 4",
        "all": 1,
    }
    assert service.call("see", "c").get(SOON)[-3:] == ["b 4", "b", "c"]


def _hold_and_die(service: encamp.Service) -> None:
    service.acquire(SOON).see("last words").get(SOON)
    os._exit(3)


def test_servers_of_dead_step_are_released(ran: Run) -> None:
    report, service = ran((_hold_and_die,))
    assert report["one"].state == "failed"
    with service.acquire(SOON) as mine:
        assert mine.seen.get(SOON)[-1] == "last words"


def _by_proxy(_: object, proxy: Proxy) -> int:
    proxy.see("in a step").get(SOON)
    return len(proxy.see("again").get(SOON))


def test_a_step_calls_by_a_proxy_and_leaves_it_to_the_program(here: Path) -> None:
    with Cluster("local", slots=3) as cluster:
        service = cluster.publish(Model, count=1)
        with service.acquire(SOON) as proxy:
            job = encamp.Job("calls", to="results")
            job.add("one", encamp.call(_by_proxy, service, proxy))
            job.run()
            assert proxy.seen.get(SOON) == ["in a step", "again"]


def _wait_twice(service: encamp.Service) -> None:
    with service.acquire(SOON):
        assert _wait_in_vain(service).startswith("no server of Model was free within")
    assert _wait_in_vain(service) == "acquired"


def _wait_in_vain(service: encamp.Service) -> str:
    try:
        service.acquire(0.05)
    except TimeoutError as exc:
        return str(exc)
    return "acquired"


def test_a_step_that_waits_for_a_server_in_vain_takes_none_later(ran: Run, here: Path) -> None:
    report, service = ran((_wait_twice,))
    assert report["one"].state == "done", report["one"].why
    with service.acquire(SOON) as mine:
        assert mine.see("free").get(SOON)[-1] == "free"


def test_steps_in_other_executors_say_who_can_call(here: Path) -> None:
    with Cluster("local", slots=1) as cluster, ThreadPoolExecutor(1) as threads:
        service = cluster.publish(Model, count=1)
        job = encamp.Job("far", to="results")
        job.add("calls", encamp.call(_wait_in_vain, service))
        assert job.run(threads, check=False)["calls"].state == "done"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        job = encamp.Job("farther", to="results")
        job.add("calls", encamp.call(_wait_in_vain, service))
        assert "in steps of jobs that run in either" in job.run(pool, check=False)["calls"].why


def _receive() -> object:
    return encamp.current_task().receive()


def test_a_step_that_would_wait_for_messages_fails_at_once(here: Path) -> None:
    with Cluster("local", slots=1) as cluster:
        job = encamp.Job("far", to="results")
        job.add("receives", encamp.call(_receive))
        report = job.run(cluster, check=False)
    assert "a step of a job cannot send messages" in report["receives"].why

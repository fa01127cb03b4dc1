"""Jobs of programs that publish services: what these have done stands in the report."""

from __future__ import annotations

from pathlib import Path

import encamp
from encamp.cluster.cluster import Cluster
from encamp.jobs.report.report import read_report
from encamp.testing import served, work


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
    gone, told = report.services
    assert (told.service, told.calls, [one.calls for one in told.servers]) == ("Counter", 1, [1])
    assert (gone.service, gone.calls, gone.servers) == ("gone", 1, ())
    assert gone.former[0].state == "ended"
    assert read_report(Path("results/with services.job/report.json")) == report


def _use(service: encamp.Service) -> object:
    return service.call("add").get()


def _receive() -> object:
    return encamp.current_task().receive()


def test_a_step_that_would_call_a_service_or_wait_for_messages_fails_at_once(here: Path) -> None:
    with Cluster("local", slots=3) as cluster:
        service = cluster.publish(served.Counter, count=1)
        job = encamp.Job("far", to="results")
        job.add("calls", encamp.call(_use, service))
        job.add("receives", encamp.call(_receive))
        report = job.run(cluster, check=False)
    assert "tasks that were spawned there" in report["calls"].why
    assert "a step of a job has no messages" in report["receives"].why

"""A job that has lost all hosts stops with one message, and continues in the next run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import encamp
from encamp.cluster import hosts_join_and_leave
from encamp.cluster.cluster import Cluster
from encamp.errors import EngineFailed
from encamp.testing.fake import FakeEngine
from encamp.testing.waiting import until


def strip(number: int, here: Path) -> None:
    """Wait for a sign, but for the first strip, and write a result."""
    (here / f"begun-{number}").touch()
    if number:
        until((here / "go").exists)
    Path(f"r{number}").write_text(str(number))


def survey(here: Path) -> encamp.Job:
    job = encamp.Job("survey", to="out")
    for number in range(6):
        job.add(f"t{number}", encamp.call(strip, number, here), outputs=f"r{number}")
    return job


def test_run_without_hosts_stops_with_one_sentence_and_continues_later(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_join_and_leave, "REPLACED", 0.3)
    engine = FakeEngine(hosts=2, slots=1)

    def kill_all() -> None:
        until(lambda: Path(here, "out/r0").exists() and Path(here, "begun-2").exists())
        engine.kill_host("fake-1")
        engine.kill_host("fake-2")

    thread = threading.Thread(target=kill_all)
    thread.start()
    message = r"all of its hosts are lost; the last one was fake-2: \S"
    with Cluster(engine) as cluster, pytest.raises(EngineFailed, match=message):
        survey(here).run(cluster)
    thread.join()
    report = encamp.Job("survey", to="out").folder / "report.json"
    assert '"waiting"' in report.read_text()
    assert '"failed"' not in report.read_text()
    (here / "go").touch()
    again = survey(here).run()
    assert [again[f"t{number}"].state for number in range(6)] == ["up to date", *["done"] * 5]
    assert [Path(f"out/r{number}").read_text() for number in range(6)] == [*"012345"]

"""Every call runs once and its result comes once, whenever its slot's process dies.

What ran is told by files that the calls write themselves; what came, by the frames of the agents.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from encamp.agent import process_slot
from encamp.cluster.cluster import Cluster
from encamp.engines.engine_interface import Arrival, Frame
from encamp.errors import TaskLost
from encamp.slot import ledger
from encamp.testing import work
from encamp.testing.fake import FakeEngine
from encamp.testing.waiting import until
from encamp.wire import protocol

SOON = 30.0


class Overheard(FakeEngine):
    """An engine in memory that notes what is said in both directions."""

    private = True

    def __init__(self, hosts: int = 1, slots: int = 1) -> None:
        super().__init__(hosts, slots)
        self.sent: list[tuple[Any, list[Any]]] = []
        self.came: list[tuple[Any, list[Any]]] = []

    def send(self, to: int, parts: Sequence[Any]) -> None:
        """Note what is sent, and send it."""
        self.sent += protocol.unbundled(list(parts))
        super().send(to, parts)

    def receive(self) -> Sequence[Arrival]:
        """Note what comes."""
        arrivals = super().receive()
        for arrival in arrivals:
            if isinstance(arrival, Frame):
                self.came += protocol.unbundled(arrival.parts)
        return arrivals

    def heard(self, kind: type) -> list[Any]:
        """What came of one kind."""
        return [envelope for envelope, _ in self.came if isinstance(envelope, kind)]

    def results(self) -> Counter[int]:
        """How often the result of each task came."""
        inner = [
            protocol.decode(part)
            for envelope, parts in self.came
            if isinstance(envelope, protocol.ManyResults)
            for part in parts[1:]
        ]
        envelopes = [*self.heard(protocol.Results), *inner]
        return Counter(result[0] for envelope in envelopes for result in envelope.results)


def ran(log: Path) -> Counter[int]:
    """How often each call ran."""
    return Counter(map(int, log.read_text().split())) if log.exists() else Counter()


def note(log: str, number: int, deed: str = "") -> int:
    """Write down that this call runs, in one step that others cannot split; then do something."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    if deed == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed:
        time.sleep(float(deed))
    return number


@pytest.mark.parametrize("looks", [True, False], ids=["", "nobody looks while it lives"])
def test_calls_behind_crashes_run_once_each(
    local_storage_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    if not looks:
        monkeypatch.setattr(process_slot, "_LOOK_AFTER", 600.0)
    log, engine, count = tmp_path / "log", Overheard(slots=2), 500
    deadly = set(range(40, count, 80))
    with Cluster(engine) as cluster:
        for task in cluster.spawn_many(abs, [(-1,)] * 100, notify=False):
            task.result(SOON)  # each slot is there
        arguments = [(str(log), number, "die" * (number in deadly)) for number in range(count)]
        tasks = cluster.spawn_many(note, arguments, notify=False)
        ends = [task.exception(SOON) for task in tasks]
        ids = [task.id for task in tasks]
    assert {n for n, end in enumerate(ends) if isinstance(end, TaskLost)} == deadly
    assert {n for n, end in enumerate(ends) if end is not None} == deadly
    assert ran(log) == dict.fromkeys(range(count), 1)
    results = engine.results()
    assert [results[number] for number in ids] == [int(n not in deadly) for n in range(count)]


def test_results_from_ledger_arrive_once(
    local_storage_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that takes long after short ones keeps their results back, until its agent looks."""
    found: list[int] = []

    def read(fd: int, read: Any = ledger.read) -> Any:
        held = read(fd)
        found.append(len(held[1]) if held else 0)
        return held

    monkeypatch.setattr(ledger, "read", read)
    log, engine, tasks = tmp_path / "log", Overheard(), []
    with Cluster(engine) as cluster:
        for _ in range(50):
            numbers = range(len(tasks), len(tasks) + 100)
            arguments = [(str(log), n, "0.01" if n % 20 == 19 else "") for n in numbers]
            tasks += cluster.spawn_many(note, arguments, notify=False)
            assert [task.result(SOON) for task in tasks[-100:]] == list(numbers)
            if sum(map(bool, found)) > 5:
                break
    assert sum(map(bool, found)) > 5, "nothing was held back"
    assert ran(log) == dict.fromkeys(range(len(tasks)), 1)
    results = engine.results()
    assert {results[task.id] for task in tasks} == {1}


def test_calls_for_ended_process_do_not_run_in_next(
    local_storage_base: Path, tmp_path: Path
) -> None:
    log, engine = tmp_path / "log", Overheard()
    with Cluster(engine) as cluster:
        assert cluster.spawn(note, str(log), 1).result(SOON) == 1
        late = [parts for envelope, parts in engine.sent if isinstance(envelope, protocol.Run)]
        os.kill(cluster.spawn(work.pid).result(SOON), signal.SIGKILL)
        until(lambda: cluster.receive(0.01, source=10**9) or engine.heard(protocol.SlotEnded))
        for parts in late:
            engine.send(1, parts)
        assert cluster.spawn(note, str(log), 2).result(SOON) == 2
    assert ran(log) == {1: 1, 2: 1}


def test_stop_order_for_ended_process_does_not_stop_its_successor(
    local_storage_base: Path,
) -> None:
    engine = Overheard()
    with Cluster(engine) as cluster:
        os.kill(cluster.spawn(work.pid).result(SOON), signal.SIGKILL)
        until(lambda: cluster.receive(0.01, source=10**9) or engine.heard(protocol.SlotEnded))
        pid = cluster.spawn(work.pid).result(SOON)
        engine.send(1, [protocol.encode(protocol.Stop(0, life=0))])
        assert [cluster.spawn(work.pid).result(SOON) for _ in range(3)] == [pid] * 3
        assert len(engine.heard(protocol.SlotEnded)) == 1

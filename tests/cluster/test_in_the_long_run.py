"""Effects that appear only over time: many pings, output that arrives in pieces, …"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from encamp.agent import agent as agent_main
from encamp.cluster import hosts_join_and_leave, start_hosts
from encamp.cluster.cluster import Cluster
from encamp.cluster.events import HostDeleted
from encamp.slot.current_task import current_task
from encamp.testing import work
from encamp.testing.fake import FakeEngine, SimulatedEngine
from encamp.testing.waiting import gone, until
from encamp.wire import protocol

SOON = 30.0


class Sluggish(SimulatedEngine):
    """A host that answers a ping only now and then."""

    def __init__(self, every: int) -> None:
        super().__init__(1, 1)
        self.every, self.pings = every, 0

    def send(self, to: int, parts: Sequence[Any]) -> None:
        """Lose most pings on the way."""
        for envelope, inner in protocol.unbundled(list(parts)):
            if isinstance(envelope, protocol.Ping):
                self.pings += 1
                if self.pings % self.every:
                    continue
            super().send(to, inner)


def test_a_host_that_answers_late_again_and_again_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts_join_and_leave, "BEAT", 0.02)
    engine = Sluggish(every=3)
    with Cluster(engine) as cluster:
        until(lambda: cluster.receive(0.02, source=10**9) or engine.pings >= 30)
        assert len(cluster.hosts()) == 1
        assert cluster.spawn(abs, -1).exception(SOON) is None


def test_a_host_is_lost_when_five_pings_in_a_row_had_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts_join_and_leave, "BEAT", 0.02)
    engine = Sluggish(every=10**9)
    with Cluster(engine) as cluster:
        assert isinstance(cluster.receive(SOON).message, HostDeleted)  # type: ignore[union-attr]
        assert engine.pings == 5


def test_a_host_that_is_asked_all_the_time_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by ``updateCoreCount`` of PyOPUS in a loop: each regular look comes before an answer."""
    monkeypatch.setattr(hosts_join_and_leave, "BEAT", 1000.0)
    with Cluster(SimulatedEngine(1, 1)) as cluster:
        them = cluster._controller.agents
        (agent,) = them.here()

        def asked_and_looked_at() -> None:
            them.ping(agent)
            them._beat()

        for _ in range(10):
            cluster._pump.call(asked_and_looked_at)
            assert cluster._pump.until(lambda: agent.answered, SOON)
        assert them.here() == [agent]


def _say_slowly(texts: list[str], last: str) -> None:
    me = current_task()
    for text in texts:
        print(text)
        me.receive()
    print(last)


@pytest.mark.parametrize("tasks", [1, 3])
def test_followed_output_arrives_once_in_order(
    local_storage_base: Path, no_slots_left: None, tasks: int
) -> None:
    received: dict[int, str] = {}

    def follow(task: int, text: str) -> None:
        received[task] = received.get(task, "") + text

    texts = ["one", "two\nand three", "four"]
    with Cluster("local", slots=1, follow=follow) as cluster:
        for _ in range(tasks):
            task, expected = cluster.spawn(_say_slowly, texts, "five", notify=False), ""
            for text in texts:
                expected += f"{text}\n"
                until(lambda: received.get(task.id, "") == expected)  # noqa: B023
                cluster.send(task, "go on")
            task.result(SOON)
            expected += "five\n"
            assert received[task.id] == expected
            assert task.output == expected


def test_host_joining_soon_after_last_loss_saves_cluster(
    local_storage_base: Path, no_slots_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_join_and_leave, "REPLACED", 0.5)
    engine = FakeEngine(1, 1)
    with Cluster(engine) as cluster:
        cluster.spawn(int, notify=False).result(SOON)
        engine.kill_host("fake-1")
        waits = cluster.spawn(abs, -1, notify=False)
        until(lambda: cluster.receive(0.01) and not cluster.hosts())
        engine.add_host(1)
        assert waits.result(SOON) == 1
        cluster.receive(0.8, source=10**9)  # nothing comes of it when its time is over
        assert cluster.spawn(abs, -2, notify=False).result(SOON) == 2


def test_agent_ends_only_after_long_silence(
    local_storage_base: Path, no_slots_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_hosts, "CONTROLLER_SILENT", 1.0)
    monkeypatch.setattr(agent_main, "_LOOK_AGAIN", 0.2)
    monkeypatch.setattr(hosts_join_and_leave, "BEAT", 0.1)
    monkeypatch.setattr(hosts_join_and_leave, "MISSED", 10**9)
    engine = FakeEngine(1, 1)
    with Cluster(engine) as cluster:
        pid = cluster.spawn(work.pid, notify=False).result(SOON)
        cluster.receive(2.0, source=10**9)  # but for pings, nothing is said
        assert cluster.spawn(work.pid, notify=False).result(SOON) == pid
        engine.cut("fake-1")
        until(lambda: gone(pid))


def _print_lines(count: int) -> None:
    for number in range(count):
        print(f"{number:09}")


def test_output_is_limited_to_a_mebibyte(local_storage_base: Path, no_slots_left: None) -> None:
    with Cluster("local", slots=1) as cluster:
        for count in (150_000, 3, 110_000):
            task = cluster.spawn(_print_lines, count, notify=False)
            task.result(SOON)
            whole = "".join(f"{number:09}\n" for number in range(count))
            half = 1 << 19
            if len(whole) <= 2 * half:
                assert task.output == whole
            else:
                left_out = f"{len(whole) - 2 * half} of {len(whole)} bytes are left out here"
                assert task.output.startswith(f"{whole[:half]}\n[encamp: {left_out};")
                assert task.output.endswith(f"]\n{whole[-half:]}")

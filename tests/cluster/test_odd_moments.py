"""Races in a cluster: callbacks that wait, kills and losses between two steps, early messages."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from encamp.agent import agent
from encamp.agent.process_slot import ProcessSlot
from encamp.cluster import hosts_join_and_leave
from encamp.cluster.cluster import Cluster, port_of
from encamp.cluster.task import SpawnedTask
from encamp.errors import EncampError, TaskKilled, TaskLost, UnsupportedByEngine
from encamp.slot.current_task import current_task
from encamp.testing import fake, work
from encamp.testing.fake import FakeEngine
from encamp.testing.waiting import until

SOON = 30.0
BRIEFLY = 3.0
"""Seconds that only what went wrong takes."""


@pytest.fixture
def one(local_storage_base: Path, no_slots_left: None) -> Iterator[Cluster]:
    """A cluster of one slot."""
    with Cluster("local", slots=1) as cluster:
        yield cluster


def ready(cluster: Cluster, task: SpawnedTask) -> None:
    """Wait until a task has said something."""
    assert cluster.receive(SOON, source=task) is not None


def _nap(seconds: float) -> int:
    time.sleep(seconds)
    return 1


def _ready_and_nap(seconds: float) -> None:
    current_task().send(0, "ready")
    time.sleep(seconds)


def _stuck() -> None:
    """Be for long where nothing can be raised, and say so from there."""
    threading.Timer(0.3, current_task().send, (0, "ready")).start()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**8)


def _get(seconds: float = BRIEFLY) -> Any:
    got = current_task().receive(seconds)
    return got and got.message


def _pass_on() -> None:
    """Say "hello" to the task that the spawner names."""
    me = current_task()
    to = me.receive(SOON)
    assert to is not None
    me.send(to.message, "hello")


# Processes


def test_a_function_that_a_dead_spare_process_knew_runs_after_a_fresh_call(one: Cluster) -> None:
    lasting = one.spawn(work.pid).result(SOON)
    fresh = one.spawn(work.tell_pid_and_wait, fresh=True, notify=False)
    ready(one, fresh)
    os.kill(lasting, signal.SIGKILL)
    one.receive(0.5, source=10**9)  # its end is seen meanwhile
    one.send(fresh, "go on")
    fresh.result(SOON)
    assert one.spawn(work.pid).result(SOON) != lasting


def _log_to(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_CREAT, 0o600)
    os.dup2(fd, 1)
    os.close(fd)
    os.write(1, b"my own log\n")
    return 42


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR], ids=["write", "both"])
def test_a_call_may_put_a_file_of_its_own_in_place_of_its_output(
    one: Cluster, tmp_path: Path, flags: int
) -> None:
    log = tmp_path / "log"
    task = one.spawn(_log_to, str(log), flags)
    assert task.result(SOON) == 42
    assert log.read_text() == "my own log\n"
    assert task.output == ""
    after = one.spawn(work.shout, "after")
    after.result(SOON)
    assert "descriptor after" in after.output


def test_closing_waits_for_all_stuck_slots_at_once(
    local_storage_base: Path, no_slots_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def end(self: ProcessSlot, within: float, end: Any = ProcessSlot.end) -> None:
        given.append(within)
        end(self, within)

    monkeypatch.setattr(agent, "ENDS", 0.5)
    monkeypatch.setattr(ProcessSlot, "end", end)
    with Cluster("local", slots=3) as cluster:
        for task in cluster.spawn_many(_stuck, [()] * 3, notify=False):
            ready(cluster, task)
        cluster.close(cancel=True)
    assert 0 < given[0] <= 0.5
    assert given[1:] == [0.0, 0.0], "each has what those before it have left: nothing"


# Callbacks


def test_a_callback_may_spawn_a_task_and_wait_for_it(one: Cluster) -> None:
    got: list[Any] = []
    task = one.spawn(_nap, 0.2)
    task.add_done_callback(lambda _: got.append(one.spawn(_nap, 0.0).result(BRIEFLY)))
    assert task.result(SOON) == 1
    until(lambda: got, 2 * BRIEFLY)
    assert got == [1]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_callback_of_a_lost_task_may_spawn_another_and_wait_for_it(
    local_storage_base: Path, no_slots_left: None, slots: int
) -> None:
    with Cluster("local", slots=slots) as cluster:
        got: list[Any] = []
        task = cluster.spawn(work.die_after, "exit", notify=False)
        ready(cluster, task)
        task.add_done_callback(lambda _: got.append(cluster.spawn(abs, -1).result(BRIEFLY)))
        cluster.send(task, "go on")
        assert isinstance(task.exception(SOON), TaskLost)
        until(lambda: got, 2 * BRIEFLY)
        assert got == [1]


def test_a_callback_of_a_task_that_kill_all_cancels_may_wait_for_one_that_it_kills(
    one: Cluster,
) -> None:
    running = one.spawn(work.wait_for_ever, notify=False)
    waiting = one.spawn(abs, -1)
    ready(one, running)
    got: list[Any] = []
    waiting.add_done_callback(lambda _: got.append(running.exception(SOON)))
    one.kill_all()
    assert isinstance(running.exception(2 * SOON), TaskKilled)
    until(lambda: got, SOON)
    assert isinstance(got[0], TaskKilled)


def test_a_callback_may_close_the_cluster_that_another_thread_closes(
    local_storage_base: Path, no_slots_left: None
) -> None:
    cluster = Cluster("local", slots=1)
    in_callback, closed = threading.Event(), threading.Event()

    def close(_: Any) -> None:
        in_callback.set()
        time.sleep(0.3)  # the other thread closes meanwhile
        cluster.close()
        closed.set()

    cluster.spawn(_nap, 0.3).add_done_callback(close)
    assert in_callback.wait(SOON)
    other = threading.Thread(target=cluster.close, daemon=True)
    other.start()
    other.join(2 * BRIEFLY)
    assert not other.is_alive()
    assert closed.wait(BRIEFLY)


# Cancelling


def _is_sent(cluster: Cluster, task: SpawnedTask) -> bool:
    return port_of(cluster).slot_of(task) is not None


def _sent_ahead(cluster: Cluster, seconds: float) -> list[SpawnedTask]:
    """Some calls of which a slot has more than one, behind one that takes that long."""
    for task in cluster.spawn_many(_nap, [(0.0,)] * 300):
        task.result(SOON)
    arguments = [(seconds,), *[(0.0,)] * 40]
    tasks: list[SpawnedTask] = cluster._pump.call(lambda: cluster.spawn_many(_nap, arguments))
    until(lambda: sum(_is_sent(cluster, task) for task in tasks) > 1)
    return tasks


def test_a_call_behind_a_long_one_is_cancelled_at_once(one: Cluster) -> None:
    tasks = _sent_ahead(one, 1.5)
    last = [task for task in tasks if _is_sent(one, task)][-1]
    assert last.cancel()
    assert not tasks[0].done()
    assert last.cancelled()


def test_all_calls_behind_a_long_one_are_taken_back_at_once(one: Cluster) -> None:
    tasks = _sent_ahead(one, 1.5)
    one._controller.kill_and_cancel.take_back_all(reversed(tasks))
    assert not tasks[0].done()
    assert [task.cancelled() for task in tasks[1:]] == [True] * 40


def test_slots_in_threads_go_on_after_kill_all(local_storage_base: Path) -> None:
    with Cluster("local", slots=1, inline="threads") as cluster:
        for task in cluster.spawn_many(_nap, [(0.0003,)] * 100):
            task.result(SOON)
        for _ in range(30):
            cluster.spawn_many(_nap, [(0.0003,)] * 40)[3].result(SOON)
            with suppress(UnsupportedByEngine):
                cluster.kill_all()
            assert cluster.spawn(_nap, 0.0).result(BRIEFLY) == 1


def test_no_call_is_queued_behind_call_spared_by_kill_all(
    local_storage_base: Path,
) -> None:
    with Cluster("local", slots=1, inline="threads") as cluster:
        for task in cluster.spawn_many(_nap, [(0.0,)] * 300):
            task.result(SOON)
        needy = cluster.spawn(_ready_and_nap, 0.5, memory="1 GiB", notify=False)
        ready(cluster, needy)
        with suppress(UnsupportedByEngine):
            cluster.kill_all()
        after = cluster.spawn_many(_nap, [(0.0,)] * 5)
        needy.result(SOON)
        assert [task.result(SOON) for task in after] == [1] * 5
        (host,) = cluster._controller.scheduler.hosts.values()
        assert (host.used_memory, host.used_cores) == (0, 0)


# Messages that come early


@pytest.mark.parametrize("fresh", [False, True], ids=["plain", "fresh"])
def test_a_message_may_overtake_the_task_that_it_is_for(
    local_storage_base: Path, no_slots_left: None, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    slow = threading.Event()
    held: list[tuple[int, Any]] = []
    deliver = fake._Network._deliver

    def hold(network: Any, to: int, frame: Any) -> None:
        if slow.is_set() and frame.sender == 0 and to == 2:
            held.append((to, frame))
        else:
            deliver(network, to, frame)

    monkeypatch.setattr(fake._Network, "_deliver", hold)
    engine = FakeEngine(2, 1)
    with Cluster(engine) as cluster:
        cluster.spawn(int, on="fake-2").result(SOON)
        sender = cluster.spawn(_pass_on, on="fake-1")
        slow.set()
        task = cluster.spawn(_get, on="fake-2", fresh=fresh)
        until(lambda: held)
        cluster.send(sender, task.id)
        sender.result(SOON)
        time.sleep(0.1)  # for the message's way, which nothing tells of
        with engine._network.lock:
            slow.clear()
            for to, frame in held:
                deliver(engine._network, to, frame)
        assert task.result(SOON) == "hello"


def test_messages_follow_moved_task_with_function_by_value(
    one: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("only_in_the_spawner")
    module.__file__ = "/nowhere/only_in_the_spawner.py"
    source = """
def get():
    from encamp import current_task

    got = current_task().receive(3)
    return got and got.message
"""
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    task = one.spawn(module.get)
    one.send(task, "hello")
    assert task.result(SOON) == "hello"


def test_no_message_is_lost_to_a_process_that_a_clearing_of_the_storage_ends(
    one: Cluster,
) -> None:
    one.spawn(int).result(SOON)
    for number in range(3):
        clearing = threading.Thread(target=one.clear_local_storage)
        clearing.start()
        time.sleep(0.003 * number)
        task = one.spawn(_get, 1.0)
        one.send(task, number)
        assert task.result(SOON) == number
        clearing.join()


# The cluster's end


class _SlowToPickle:
    """Takes a while to be pickled."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        time.sleep(self.seconds)
        return int, ()


def test_a_task_that_is_pickled_while_the_cluster_fails_ends_too(
    local_storage_base: Path, no_slots_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_join_and_leave, "REPLACED", 0.3)
    engine = FakeEngine(1, 1)
    with suppress(EncampError), Cluster(engine) as cluster:
        cluster.spawn(int).result(SOON)
        engine.kill_host("fake-1")
        until(lambda: not cluster._controller.agents.by_number)
        slow = _SlowToPickle(1.5)
        task = cluster.spawn(lambda: slow)
        assert cluster._controller.failure is not None
        ended = task.exception(BRIEFLY)
    assert isinstance(ended, EncampError)


def test_ended_slot_is_not_polled_for_results(one: Cluster) -> None:
    for task in one.spawn_many(work.wait_at, [(0, -1)] * 50):
        task.result(SOON)
    tasks = one.spawn_many(work.wait_at, [(number, 20) for number in range(40)])
    tasks[10].result(SOON)
    one.close(cancel=True)
    assert one._controller.failure is None
    assert tasks[20].done()

"""Events at unfavourable moments: kills of fresh calls, replaced links, reentrant callbacks, …"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from encamp.agent.child_process import ChildProcess
from encamp.agent.process_slot import ProcessSlot
from encamp.attempt_facts import Published
from encamp.cluster.cluster import Cluster
from encamp.cluster.events import TaskExit
from encamp.cluster.records import Cause, HostRecord, SlotRecord, TaskRecord
from encamp.cluster.scheduler import Scheduler
from encamp.cluster.sent_functions import Function
from encamp.cluster.spawn_options import SpawnOptions
from encamp.cluster.task import Canceller, SpawnedTask
from encamp.engines.engine_interface import Frame
from encamp.errors import (
    BadDestination,
    BadJob,
    ClusterClosed,
    OutputExists,
    Stopped,
    TaskKilled,
    TaskLost,
    TimeLimitExceeded,
)
from encamp.executor import Executor
from encamp.slot.current_task import CurrentTask, ask_here, current_task
from encamp.storage.outputs import deliveries
from encamp.storage.outputs.patterns import Output
from encamp.testing import work
from encamp.testing.fake import FakeEngine, SimulatedEngine
from encamp.testing.waiting import until
from encamp.wire import protocol
from encamp.wire.pickling import dump, dump_failure

SOON = 30.0


@pytest.fixture
def one(local_storage_base: Path, no_slots_left: None) -> Iterator[Cluster]:
    """A cluster of one slot."""
    with Cluster("local", slots=1) as cluster:
        yield cluster


def ready(cluster: Cluster, task: SpawnedTask) -> None:
    """Wait until a task has said something."""
    got = cluster.receive(SOON, source=task)
    assert got is not None


# Kills


NONE = bytes(dump(None)[0])


class LateAnswers(SimulatedEngine):
    """A host of one slot, deep in compiled code: what it answers, and when, is the test's."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.came: list[Any] = []

    def send(self, to: int, parts: Any) -> None:
        """Note what came, and answer nothing."""
        self.came += [envelope for envelope, _ in protocol.unbundled(list(parts))]
        self.calls = sum(run.count for run in self.of(protocol.Run))
        self.put(*([protocol.encode(protocol.Pong(0))] for _ in self.of(protocol.Ping)))

    def put(self, *answers: list[Any]) -> None:
        """Let the host send something."""
        self._inbox.put([Frame(1, parts) for parts in answers])

    def finish(self, *tasks: SpawnedTask) -> None:
        """Have tasks end, whenever they come."""

        def all_done() -> bool:
            left = [task for task in tasks if not task.done()]
            self.put(
                *(
                    [protocol.encode(protocol.Results(0, [(t.id, True, 0.0, NONE, 0)]))]
                    for t in left
                )
            )
            return not left

        until(all_done)

    def of(self, kind: type) -> list[Any]:
        """What came of one kind."""
        return [envelope for envelope in self.came if isinstance(envelope, kind)]


def test_a_slot_that_is_asked_to_end_gets_no_other_task_before_it_has_ended() -> None:
    engine = LateAnswers()
    with Cluster(engine) as cluster:
        victim = cluster.spawn(work.blocked_in_c)
        until(lambda: engine.of(protocol.Run))
        victim.kill()
        until(lambda: engine.of(protocol.Stop))  # it did not report in time what it runs
        assert engine.of(protocol.Stop)[0].ticket == engine.of(protocol.Recall)[0].ticket
        stopped = dump_failure(Stopped())
        end = protocol.Results(0, [(victim.id, False, 1.0, bytes(stopped[0]), 0)])
        engine.put([protocol.encode(end)])
        assert isinstance(victim.exception(SOON), TaskKilled)
        after = cluster.spawn(abs, -1)
        assert cluster.receive(0.2, source=after) is None
        assert len(engine.of(protocol.Run)) == 1
        engine.put([protocol.encode(protocol.SlotEnded(0, 0, b"", began=False))])
        until(lambda: len(engine.of(protocol.Run)) == 2)
        assert engine.of(protocol.Run)[1].life == 1
        result = protocol.Results(0, [(after.id, True, 0.0, bytes(dump(1)[0]), 0)])
        engine.put([protocol.encode(result)])
        assert after.result(SOON) == 1


def test_a_task_that_was_given_back_before_shows_where_it_ran_if_results_arrive_together() -> None:
    engine = LateAnswers()
    with Cluster(engine) as cluster:
        quick, first, second, *rest = cluster.spawn_many(work.pid, [()] * 5)
        engine.finish(quick)  # two of the others are sent ahead now
        until(lambda: engine.calls == 3)
        second.host, second.slot = "another host", 7
        results = [(task.id, True, 0.0, NONE, 0) for task in (first, second)]
        engine.put([protocol.encode(protocol.Results(0, results))])
        assert [task.result(SOON) for task in (first, second)] == [None, None]
        assert (second.host, second.slot) == (first.host, 0)
        engine.finish(*rest)


@pytest.mark.parametrize("runs", ["the victim", "the next task"])
def test_a_kill_whose_answer_was_long_on_its_way_hits_no_other_task(runs: str) -> None:
    engine = LateAnswers()
    with Cluster(engine) as cluster:
        quick, victim, following, *rest = cluster.spawn_many(work.pid, [()] * 5)
        engine.finish(quick)  # two of the others are sent ahead now
        until(lambda: engine.calls == 3)
        victim.kill()
        until(lambda: engine.of(protocol.Stop))
        ticket = engine.of(protocol.Stop)[0].ticket
        if runs == "the victim":
            engine.put([protocol.encode(protocol.GivenBack(0, ticket, [following.id], victim.id))])
            until(lambda: [stop.ticket for stop in engine.of(protocol.Stop)] == [ticket, 0])
            assert engine.calls == 3
            engine.put([protocol.encode(protocol.SlotEnded(0, 0, b""))])
            assert isinstance(victim.exception(SOON), TaskKilled)
        else:
            end = protocol.Results(0, [(victim.id, True, 1.0, NONE, 0)])
            given = protocol.GivenBack(0, ticket, [], following.id)
            engine.put([protocol.encode(end)], [protocol.encode(given)])
            assert victim.result(SOON) is None
            until(following.running)
            assert len(engine.of(protocol.Stop)) == 1
        engine.finish(following, *rest)  # for which its slot must be open


def test_tasks_behind_unresponsive_killed_ones_still_run(one: Cluster) -> None:
    for _ in range(3):
        victim = one.spawn(work.blocked_in_c, notify=False)
        ready(one, victim)
        behind = one.spawn_many(abs, [(-1,)] * 3)
        victim.kill()
        assert isinstance(victim.exception(SOON), TaskKilled)
        assert [task.result(SOON) for task in behind] == [1, 1, 1]


# Handlers that raise


def out_of_time(*_: object) -> None:
    raise TimeoutError


def under_time_limits(act: Callable[[int], None], rounds: int) -> list[int]:
    """Act again and again, each time with a little time; which rounds came to their end."""
    signal.signal(signal.SIGALRM, out_of_time)
    done = []
    for number in range(rounds):
        with suppress(TimeoutError):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.0007 * (number % 8))
                act(number)
                done.append(number)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return done


def send_under_time_limits(rounds: int) -> list[int]:
    array = np.zeros(200_000)

    def send(number: int) -> None:
        array[:] = number
        current_task().send(0, array)

    return under_time_limits(send, rounds)


def whole(array: Any) -> float:
    assert (array == array[0]).all()
    return float(array[0])


def test_time_limits_in_a_task_leave_no_message_half_sent(one: Cluster) -> None:
    task = one.spawn(send_under_time_limits, 60)
    came = []
    while isinstance((got := one.receive(SOON, source=task)).message, np.ndarray):  # type: ignore[union-attr]
        came.append(whole(got.message))  # type: ignore[union-attr]
    assert set(task.result(SOON)) <= set(came)
    assert came == sorted(set(came))


def test_time_limits_in_a_program_leave_no_message_half_sent(one: Cluster) -> None:
    task = one.spawn(receive_all)
    array = np.zeros(200_000)

    def send(number: int) -> None:
        array[:] = number
        one.send(task, array)

    before = signal.getsignal(signal.SIGALRM)
    try:
        done = under_time_limits(send, 60)
    finally:
        signal.signal(signal.SIGALRM, before)
    one.send(task, None)
    came = task.result(SOON)
    assert set(done) <= set(came)
    assert came == sorted(set(came))


def receive_all() -> list[float]:
    got = []
    while (received := current_task().receive(SOON)) and received.message is not None:
        got.append(whole(received.message))
    return got


# Fresh interpreters


def test_a_fresh_call_that_is_killed_gives_its_slot_back(one: Cluster) -> None:
    fresh = one.spawn(work.wait_for_ever, fresh=True, notify=False)
    ready(one, fresh)
    fresh.kill()
    assert isinstance(fresh.exception(SOON), TaskKilled)
    assert one.spawn(abs, -1).result(SOON) == 1


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.1, 0.3])
def test_a_fresh_call_that_is_killed_before_it_begins_does_no_harm(
    one: Cluster, pause: float
) -> None:
    before = one.spawn(os.getpid).result(SOON)
    fresh = one.spawn(time.sleep, 600, fresh=True)
    time.sleep(pause)
    fresh.kill()
    fresh.exception(SOON) if not fresh.cancelled() else None
    assert one.spawn(os.getpid).result(SOON) == before
    assert one.spawn(abs, -1, fresh=True).result(SOON) == 1


def test_both_processes_of_a_slot_may_die_during_a_fresh_call(one: Cluster) -> None:
    lasting = one.spawn(os.getpid).result(SOON)
    fresh = one.spawn(work.tell_pid_and_wait, fresh=True, notify=False)
    got = one.receive(SOON, source=fresh)
    assert got is not None
    os.kill(lasting, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{lasting}").exists())
    os.kill(got.message, signal.SIGKILL)
    assert isinstance(fresh.exception(SOON), TaskLost)
    assert one.spawn(abs, -1).result(SOON) == 1


def test_the_lasting_process_may_die_during_a_fresh_call(
    one: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[ChildProcess] = []

    def exited(self: ProcessSlot, process: ChildProcess, real: Any = ProcessSlot._exited) -> None:
        exits.append(process)
        real(self, process)

    monkeypatch.setattr(ProcessSlot, "_exited", exited)
    lasting = one.spawn(os.getpid).result(SOON)
    fresh = one.spawn(work.tell_pid_and_wait, fresh=True, notify=False)
    ready(one, fresh)
    os.kill(lasting, signal.SIGKILL)
    until(lambda: exits)
    one.receive(0.2, source=10**9)
    assert len(exits) == 1, "it is looked at again and again"
    one.send(fresh, "go on")
    assert fresh.result(SOON) != lasting
    assert one.spawn(abs, -1).result(SOON) == 1


def _peer(to: int | None) -> None:
    me = current_task()
    if to is None:
        got = me.receive(SOON)
        assert got is not None
        me.send(got.source, "back")
    else:
        me.send(to, "there")
        me.receive(SOON)


def _tell(to: int, message: Any) -> None:
    current_task().send(to, message)


def _ready_and_receive(count: int) -> list[Any]:
    me: CurrentTask = current_task()
    me.send(0, "ready")
    got = [me.receive(SOON) for _ in range(count)]
    return [each.message for each in got if each is not None]


def test_messages_find_a_fresh_call_where_its_slot_was_spoken_to_before(
    local_storage_base: Path, no_slots_left: None
) -> None:
    with Cluster("local", slots=2) as cluster:
        first = cluster.spawn(_peer, None)
        second = cluster.spawn(_peer, first.id)
        first.result(SOON), second.result(SOON)
        fresh = cluster.spawn(_ready_and_receive, 1, fresh=True, notify=False)
        ready(cluster, fresh)
        cluster.spawn(_tell, fresh.id, "x").result(SOON)
        assert fresh.result(SOON) == ["x"]


def test_many_fresh_calls_may_speak_to_one_task(
    local_storage_base: Path, no_slots_left: None
) -> None:
    with Cluster("local", slots=2) as cluster:
        task = cluster.spawn(_ready_and_receive, 4, notify=False)
        ready(cluster, task)
        for number in range(4):
            cluster.spawn(_tell, task.id, number, fresh=True).result(SOON)
        assert task.result(SOON) == [0, 1, 2, 3]


# What killed programs left

_KILLED = """\
import os, signal, sys, encamp
with encamp.sandbox() as folder:
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_cluster_removes_what_a_killed_program_has_left(
    local_storage_base: Path, no_slots_left: None
) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED], capture_output=True, text=True)
    left = Path(done.stdout.strip())
    assert left.is_dir()
    with Cluster("local", slots=1):
        until(lambda: not left.exists())


def _swallow_all() -> None:
    while True:
        try:
            current_task().send(0, str(Path.cwd()))
            time.sleep(600)
        except BaseException:  # noqa: BLE001 - what a bad task may do
            pass


def test_a_task_that_will_not_end_leaves_no_folder(
    local_storage_base: Path, no_slots_left: None, tmp_path: Path
) -> None:
    (tmp_path / "input").write_text("x")
    cluster = Cluster("local", slots=1)
    task = cluster.spawn(_swallow_all, mirror=str(tmp_path / "input"), notify=False)
    got = cluster.receive(SOON, source=task)
    assert got is not None
    folder = Path(got.message)
    assert folder.is_dir()
    cluster.close(cancel=True)
    assert not folder.exists()


# Callbacks


def _short(number: int) -> int:
    time.sleep(0.0005)
    return number


@pytest.mark.parametrize("engine", ["local", "fake"])
def test_callbacks_may_call_back_into_the_cluster(
    local_storage_base: Path, no_slots_left: None, engine: str
) -> None:
    end: Any = FakeEngine(hosts=1, slots=3) if engine == "fake" else engine
    options: dict[str, Any] = {} if engine == "fake" else {"slots": 3}
    tasks: list[SpawnedTask] = []
    waited: list[Any] = []
    with Cluster(end, **options) as cluster:

        def call_back(task: Any) -> None:
            if task.id % 10 == 5:
                tasks[-1 - task.id // 10].cancel()
            if task.id % 100 == 7:
                waited.append(tasks[min(len(tasks) - 1, task.id + 3)].exception(SOON))

        for number in range(1000):
            tasks.append(cluster.spawn(_short, number, notify=False))
            tasks[-1].add_done_callback(call_back)
        [task.exception(SOON) for task in tasks if not task.cancelled()]
        assert waited
        done = [task for task in tasks if not task.cancelled()]
        assert [task.exception() for task in done] == [None] * len(done)


def test_ctrl_c_during_results_loses_none(tmp_path: Path) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(
        """\
import random, signal
from encamp import Cluster
def same(x): return x
if __name__ == "__main__":
    random.seed(7)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    # SIGALRM stands for SIGINT: both are given the same way
    interrupts = 0
    cluster = Cluster("local", slots=2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    while interrupts < 40:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.02))
            for _ in range(20):
                tasks = cluster.spawn_many(same, [(i,) for i in range(50)], notify=False)
                for task in tasks:
                    task.result()
        except KeyboardInterrupt:
            interrupts += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for task in cluster.tasks():
            task.exception(20)
    cluster.close()
    print("interrupts", interrupts)
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "interrupts 40\n"


# Closing


def _write_output() -> None:
    Path("out.txt").write_text("x")


@pytest.mark.parametrize("how", ["close", "kill_all"])
def test_publishing_in_progress_completes_at_kill_all(
    local_storage_base: Path,
    no_slots_left: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    begun, go_on, publish = threading.Event(), threading.Event(), deliveries.publish

    def slowly(staged: Any, own: Any) -> list[Published]:
        begun.set()
        go_on.wait(SOON)
        return publish(staged, own)

    monkeypatch.setattr(deliveries, "publish", slowly)
    cluster = Cluster("local", slots=1)
    task = cluster.spawn(_write_output, outputs=["out.txt"], to=tmp_path)
    assert begun.wait(SOON)
    threading.Timer(0.2, go_on.set).start()
    if how == "close":
        cluster.close(cancel=True)
    else:
        cluster.kill_all()
        assert task.exception(SOON) is None
    cluster.close()
    assert task.done()
    assert (tmp_path / "out.txt").read_text() == "x"


def test_waiters_are_notified_of_cluster_close(one: Cluster) -> None:
    task = one.spawn(work.wait_for_ever, notify=False)
    ready(one, task)
    received: list[Any] = []
    waiter = threading.Thread(target=lambda: received.append(task.exception()))
    waiter.start()
    one.close(cancel=True)
    waiter.join(SOON)
    assert isinstance(received[0], TaskKilled)


def test_coroutines_that_wait_for_messages_end_with_the_cluster(
    local_storage_base: Path, no_slots_left: None
) -> None:
    async def program() -> None:
        cluster = Cluster("local", slots=1)
        for _ in range(20):
            assert await cluster.areceive(timeout=0.001) is None
        assert cluster._controller.messages.waiters == []
        waits = asyncio.create_task(cluster.areceive())
        await asyncio.sleep(0.05)
        await cluster.aclose()
        with pytest.raises(ClusterClosed):
            await asyncio.wait_for(waits, SOON)

    asyncio.run(program())


def test_a_forked_child_of_the_program_ends(local_storage_base: Path, tmp_path: Path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(
        "import os, sys, time\n"
        "from encamp import Cluster, Executor\n"
        "if __name__ == '__main__':\n"
        "    cluster, pool = Cluster('local', slots=1), Executor('local', slots=1)\n"
        "    pool.submit(abs, -1).result(), cluster.spawn(abs, -1).result()\n"
        "    time.sleep(0.1)\n"
        "    if os.fork() == 0:\n"
        "        sys.exit(3)\n"
        "    assert os.waitstatus_to_exitcode(os.wait()[1]) == 3\n"
        "    assert cluster.spawn(abs, -2).result() == 2\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


# Slots and queues


def _calls(count: int) -> list[TaskRecord]:
    """Short calls."""
    function, nobody = Function(1, abs, b"", by_value=False), cast("Canceller", None)
    function.timing.took(1e-4)
    options = SpawnOptions().checked()
    return [TaskRecord(number, nobody, function, (), options) for number in range(count)]


def test_a_slot_that_is_about_to_be_ended_gets_no_more_calls() -> None:
    scheduler, slot = Scheduler(), SlotRecord(1, 0, HostRecord("host", 1, 1, []))
    scheduler.add(slot)
    for call in _calls(8):
        scheduler.put(call)
    list(scheduler.assign())
    scheduler.close(slot)
    scheduler.ended(slot, slot.tasks[0])
    assert list(scheduler.assign()) == []
    scheduler.open(slot)
    assert list(scheduler.assign()) != []


def test_a_cancelled_task_that_needs_much_keeps_no_room(
    local_storage_base: Path, no_slots_left: None
) -> None:
    with Cluster("local", slots=2) as cluster:
        busy = cluster.spawn(work.tell_pid_and_wait, notify=False)
        ready(cluster, busy)
        cluster.spawn(abs, -1, cores=2).cancel()
        assert cluster.spawn(abs, -1).result(SOON) == 1
        assert busy.running()
        cluster.send(busy, "go on")


def _big(data: bytes) -> int:
    return len(data)


def test_calls_that_a_busy_slot_has_not_read_can_be_taken_back(one: Cluster) -> None:
    for _ in range(3):
        [task.result(SOON) for task in one.spawn_many(_big, [(b"",)] * 300)]
    gate = one.spawn(work.tell_pid_and_wait, notify=False)
    big = [one.spawn(_big, bytes(3_000_000), notify=False) for _ in range(3)]
    ready(one, gate)
    big[1].kill()
    one.send(gate, "go on")
    assert isinstance(big[1].exception(SOON), TaskKilled) if not big[1].cancelled() else True
    assert [big[0].result(SOON), big[2].result(SOON)] == [3_000_000] * 2


def _print_much(count: int) -> None:
    os.write(1, b"x" * count)


def test_following_much_output_keeps_no_calls_back(
    local_storage_base: Path, no_slots_left: None
) -> None:
    came: list[int] = []
    with Cluster("local", slots=1, follow=lambda _, text: came.append(len(text))) as cluster:
        tasks = cluster.spawn_many(_print_much, [(300_000,)] * 8, notify=False)
        more = cluster.spawn_many(abs, [(-1,)] * 50, notify=False)
        more[-1].cancel()
        assert [task.exception(SOON) for task in tasks] == [None] * 8
        assert [task.result(SOON) for task in more[:-1]] == [1] * 49
    assert sum(came) == 8 * 300_000


def test_a_function_that_follows_output_and_raises_harms_no_task(
    local_storage_base: Path, no_slots_left: None
) -> None:
    def follow(task: int, text: str) -> None:
        raise ValueError(text)

    with Cluster("local", slots=1, follow=follow) as cluster:
        assert cluster.spawn(_print_much, 10).exception(SOON) is None
        assert cluster.spawn(abs, -1).result(SOON) == 1


def _close_output() -> int:
    os.close(1)
    return 5


def test_a_task_that_closes_its_output_returns(one: Cluster) -> None:
    assert one.spawn(_close_output).result(SOON) == 5


def _megabyte() -> bytearray:
    return bytearray(1_000_000)


def test_a_time_limit_keeps_no_task_that_has_ended(one: Cluster) -> None:
    kept = []
    for _ in range(20):
        task = one.spawn(_megabyte, time_limit=3600, notify=False)
        task.result(SOON)
        kept.append(weakref.ref(task))
        del task
    gc.collect()
    assert [ref() for ref in kept] == [None] * 20


def test_starting_threads_miss_no_message(
    local_storage_base: Path,
) -> None:
    with Cluster("local", slots=4, inline="threads") as cluster:
        for _ in range(50):
            tasks = [cluster.spawn(_receive_one, notify=False) for _ in range(20)]
            for number, task in enumerate(tasks):
                cluster.send(task, number)
            assert [task.result(SOON) for task in tasks] == list(range(20))


@pytest.mark.parametrize("inline", [True, "threads"])
def test_threads_have_folders_of_their_own_and_the_program_stays_where_it_is(
    local_storage_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("input")
    with Cluster("local", slots=2, inline=inline) as cluster:
        staged = [cluster.spawn(_there, "in.txt", mirror="in.txt") for _ in range(4)]
        moved = [cluster.spawn(_there, None, "/usr") for _ in range(4)]
        plain = [cluster.spawn(_there, None) for _ in range(4)]
        folders = {task.result(SOON)[0] for task in staged}
        assert [task.result(SOON)[1] for task in staged] == ["input"] * 4
        assert not folders & {"/", "/usr", str(tmp_path)}
        assert {task.result(SOON)[0] for task in moved} == {"/usr"}
        assert {task.result(SOON)[0] for task in plain} == {str(tmp_path)}
        assert Path.cwd() == tmp_path


def _there(name: str | None, to: str | None = None) -> tuple[str, str]:
    if to is not None:
        os.chdir(to)
    return str(Path.cwd()), Path(name).read_text() if name else ""


BAD_TIMEOUT = "timeout: must be a number of seconds or None, not"
BAD_TASK = "give a task or its id, not"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("x",), BAD_TIMEOUT),
        (([],), BAD_TIMEOUT),
        ((float("nan"),), BAD_TIMEOUT),
        ((True,), BAD_TIMEOUT),
        ((None, "x"), BAD_TASK),
        ((1, 1.5), BAD_TASK),
    ],
)
def test_invalid_timeouts_and_tasks_are_refused_without_losing_messages(
    one: Cluster, arguments: tuple[Any, ...], why: str
) -> None:
    task = one.spawn(_try_to_receive, arguments, notify=False)
    assert one.receive(SOON, task) is not None
    with pytest.raises(TypeError, match=why):
        one.receive(*arguments)
    assert one.receive(float("inf"), task.id).message == "second"  # type: ignore[union-attr]
    assert task.result(SOON).startswith(why)


def _try_to_receive(arguments: tuple[Any, ...]) -> str:
    me = current_task()
    for message in ("first", "second"):
        me.send(0, message)
    try:
        me.receive(*arguments)
    except TypeError as exc:
        return str(exc)
    return "it was accepted"


def test_options_that_are_no_flags_and_arguments_that_are_none_are_refused(one: Cluster) -> None:
    for name in ("fresh", "persistent", "notify"):
        with pytest.raises(BadJob, match=f"{name}: must be True or False, not 1"):
            one.spawn(abs, -1, **{name: 1})  # type: ignore[arg-type]
    for arguments in ([1], ["ab"]):
        with pytest.raises(TypeError, match="give a tuple of arguments for each task"):
            one.spawn_many(abs, arguments)  # type: ignore[arg-type]


def _receive_one() -> Any:
    got = current_task().receive(SOON)
    return got and got.message


def test_closing_a_map_before_its_first_item_cancels_what_has_not_begun(
    local_storage_base: Path, no_slots_left: None
) -> None:
    with Executor("local", slots=1) as pool:
        items: Any = pool.map(time.sleep, [0.05] * 200)
        items.close()
        until(lambda: not pool.cluster.tasks(), 5)


def test_dead_and_living_tasks_are_distinguished(one: Cluster) -> None:
    assert isinstance(one.spawn(work.die, "kill").exception(SOON), TaskLost)
    assert one.spawn(abs, -1).result(SOON) == 1


def _ask_for(question: str) -> Any:
    me = current_task()
    me.send(0, "asks")
    ask = ask_here()
    assert ask is not None
    return ask(question)


def test_a_task_does_not_get_the_answer_for_one_that_was_killed(
    one: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, answers = one._controller, threading.Event()

    def answer(task: SpawnedTask, question: str) -> str:
        if question == "B":
            threading.Event().wait(0.3)  # so that the other answer comes first, and alone
        return f"to {question}"

    monkeypatch.setattr(controller.setups, "answer", answer)
    controller.pump.call_soon(lambda: controller.disk_thread.run(answers.wait, lambda *_: None))
    try:
        first = one.spawn(_ask_for, "A", notify=False)
        ready(one, first)
        first.kill()
        assert isinstance(first.exception(SOON), TaskKilled)
        second = one.spawn(_ask_for, "B", notify=False)
        ready(one, second)
    finally:
        answers.set()
    assert second.result(SOON) == "to B"


@pytest.mark.parametrize("answers", [True, False])
def test_order_to_leaving_agent_ends_with_its_reason(answers: bool) -> None:
    """But an answer that came before counts."""
    with Cluster(FakeEngine(hosts=2, slots=1)) as cluster:
        agents = cluster._controller.agents

        def order() -> dict[int, str]:
            tickets = agents.begin_housekeeping("clear", each=True)
            agent = agents.here()[0]
            if answers:
                done = protocol.HousekeepingDone(next(iter(tickets)), True, "17")
                agents.housekeeping_done(agent, done, [])
            agents.left(agent.number, "it is gone")
            return tickets

        first, second = cluster._pump.call(order)
        answer = (True, "17") if answers else (False, "it is gone")
        assert agents.housekeeping[first] is not None
        assert agents.housekeeping[first][1:] == answer
        cluster._pump.until(lambda: agents.all_done([first, second]), 30)
        assert agents.housekeeping[second] is not None
        assert agents.housekeeping[second][1]


def test_agent_joining_during_close_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others were told before it had joined."""
    with Cluster(FakeEngine(hosts=1, slots=1)) as cluster:
        controller = cluster._controller
        received: list[tuple[int, object]] = []

        def post(number: int, parts: Any) -> None:
            received.append((number, protocol.decode(parts[0])))

        def join(*, closing: bool) -> None:
            monkeypatch.setattr(controller, "closing", closing)
            controller.agents.joined(17, "")
            del controller.agents.by_number[17]

        with monkeypatch.context() as patched:
            patched.setattr(controller.outbox, "post", post)
            cluster._pump.call(lambda: join(closing=False))
            assert received == []
            cluster._pump.call(lambda: join(closing=True))
            assert received == [(17, protocol.End())]
        monkeypatch.setattr(controller, "closing", False)


def test_the_first_reason_to_end_a_task_counts() -> None:
    """A task that is killed as its time ends was killed; and the other way round."""
    host = HostRecord("here", 1, 1, ())
    options = SpawnOptions(time_limit=5.0).checked()
    function = Function(1, len, b"", by_value=False)
    for first, second, error in (
        (Cause.KILLED, Cause.TIME, TaskKilled),
        (Cause.TIME, Cause.KILLED, TimeLimitExceeded),
    ):
        task = TaskRecord(1, cast("Canceller", None), function, ((), {}), options)
        task.end_soon(first)
        task.end_soon(second)
        assert type(task.why_ended(SlotRecord(1, 0, host), None, "")) is error


def _make() -> None:
    Path("a").write_text("new")


@pytest.mark.parametrize("existing", ["error", "replace"])
def test_unpublishable_output_leaves_nothing_at_destination(existing: Any, here: Path) -> None:
    """Of two outputs one has a name that is taken."""
    Path("to").mkdir()
    taken = Path("to/a")
    taken.write_text("old") if existing == "error" else taken.mkdir()
    outputs = [Output("a", "to", existing=existing), Output("a", "to", rename="b")]
    with Cluster("local", slots=1) as cluster:
        task = cluster.spawn(_make, outputs=outputs)
        with pytest.raises(OutputExists if existing == "error" else BadDestination):
            task.result(60)
        assert [path.name for path in Path("to").iterdir()] == ["a"]


def _wait_for(path: Path) -> None:
    until(path.exists)


@pytest.mark.parametrize("notify", [True, False])
def test_cancel_of_waiting_task_is_reported(notify: bool, here: Path) -> None:
    with Cluster("local", slots=1) as cluster:
        running = cluster.spawn(_wait_for, here / "go", notify=False)
        waiting = cluster.spawn(abs, -1, notify=notify)
        assert waiting.cancel()
        Path("go").touch()
        running.result(60)
        got = [cluster.receive(0, source=waiting.id) for _ in range(3)]
        events = [one.message for one in got if one is not None]
        if notify:
            result, end = events
            assert (result.task, result.ok) == (waiting.id, False)
            assert type(result.value) is CancelledError
            assert end == TaskExit(waiting.id)
        else:
            assert events == []

"""Dispatch on a real cluster: how far jobs are taken ahead, and how they are isolated."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from encamp import Cluster
from encamp.compat.pyopus import clustered, mailbox, use_cluster
from encamp.compat.pyopus.cooperative import OpusOS
from encamp.compat.pyopus.jobs_sent_ahead import MOST_AHEAD, JobsSentAhead
from encamp.compat.pyopus.mpi import MPI
from encamp.compat.pyopus.running_dispatch import Dispatch
from encamp.compat.pyopus.scheduler import Job
from encamp.errors import CannotTravel, TaskLost

SLOTS = 2
Collector = Generator[None, tuple[Any, ...], None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("local", slots=SLOTS) as cluster:
        yield cluster


@pytest.fixture
def system(cluster: Cluster) -> Iterator[OpusOS]:
    use_cluster(cluster)
    system = OpusOS(MPI())
    yield system
    assert system.freeSlots() == SLOTS
    assert not cluster.tasks()
    use_cluster(None)


def first(values: list[int]) -> int:
    return values[0]


def where() -> tuple[str, str, str, dict[str, str]]:
    """Where a job is, and what an earlier one has left; leaves something itself."""
    here, found = str(Path.cwd()), {k: v for k, v in os.environ.items() if k.startswith("LEFT")}
    os.chdir("/")
    os.environ["LEFT"] = "by a job"
    return str(MPI.taskID()), str(MPI.hostID()), here, found


def raise_at(folder: Path, number: int, bad: int) -> None:
    if number == bad:
        time.sleep(0.2)  # in which more jobs are drawn
        raise LookupError(str(number))
    if number > bad:
        (folder / f"{number}").touch()
        time.sleep(0.1)


def end_at(number: int, bad: int) -> int:
    if number == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_jobs_without_collector_are_taken_ahead_within_limit(
    system: OpusOS, cluster: Cluster
) -> None:
    ahead: list[int] = []

    def jobs() -> Iterator[Any]:
        for number in range(1000):
            ahead.append(len(cluster.tasks()))
            yield abs, [number]

    assert system.dispatch(jobs()) == [*range(1000)]
    assert SLOTS < max(ahead) <= SLOTS * (1 + MOST_AHEAD)


def test_a_dispatch_puts_no_messages_of_its_own_among_the_programs(system: OpusOS) -> None:
    found: list[Any] = []

    def jobs() -> Iterator[Any]:
        for number in range(200):
            found.append(MPI().receiveMessage(0))
            yield abs, [number]

    system.dispatch(jobs())
    assert found == [()] * 200


def test_slots_need_not_wait_for_jobs_while_results_are_collected(
    system: OpusOS, cluster: Cluster
) -> None:
    rests: set[float] = set()

    def jobs() -> Iterator[Any]:
        for number in range(1000):
            rests.add(cluster._pump.rest)
            yield abs, [number]

    system.dispatch(jobs())
    assert rests == {0.0}


def test_a_collector_sees_every_result_before_more_jobs_than_slots_are_drawn(
    system: OpusOS,
) -> None:
    drawn, seen, ahead = 0, 0, set()

    def jobs() -> Iterator[Any]:
        nonlocal drawn
        for number in range(100):
            drawn += 1
            ahead.add(drawn - seen)
            yield abs, [number]

    def collect() -> Collector:
        nonlocal seen
        while True:
            yield
            seen += 1

    system.dispatch(jobs(), collect())
    assert seen == 100
    assert ahead <= {*range(1, SLOTS + 1)}


def test_a_job_loads_no_engine_into_its_slot() -> None:
    own = "{'encamp.engines.mpi.engine', 'psutil', 'resource'}"
    with Cluster("local", slots=1) as cluster:
        use_cluster(cluster)
        try:
            jobs = [(eval, [f"sorted({own}.intersection(__import__('sys').modules))"])]
            assert OpusOS(MPI()).dispatch(jobs) == [[]]
        finally:
            use_cluster(None)


def test_arguments_may_be_changed_as_soon_as_the_next_job_is_drawn(system: OpusOS) -> None:
    def jobs() -> Iterator[Any]:
        values = [0]
        for number in range(500):
            values[0] = number
            yield first, [values]

    assert system.dispatch(jobs()) == [*range(500)]


def test_every_job_finds_the_same_surroundings_and_knows_its_slot(system: OpusOS) -> None:
    found = system.dispatch((where,) for _ in range(200))
    assert found is not None
    assert {task.split(":")[0] for task, *_ in found} <= {"1", "2"}
    assert len({task for task, *_ in found}) == 200
    assert {(host, folder) for _, host, folder, _ in found} == {
        (str(MPI.hostID()), str(Path.cwd()))
    }
    assert [left for *_, left in found if left] == []


def test_after_an_error_what_was_drawn_ahead_is_taken_back(system: OpusOS, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="300"):
        system.dispatch((raise_at, [tmp_path, number, 300]) for number in range(10_000))
    assert len(list(tmp_path.iterdir())) < MOST_AHEAD // 2
    assert system.dispatch([(abs, [-1])]) == [1]


def test_a_generator_that_raises_leaves_nothing_behind(system: OpusOS) -> None:
    def jobs() -> Iterator[Any]:
        for number in range(200):
            yield abs, [number]
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        system.dispatch(jobs())


def test_a_job_that_ends_its_process_loses_itself_only() -> None:
    with Cluster("local", slots=SLOTS) as cluster:
        use_cluster(cluster)
        try:
            system = OpusOS(MPI())
            with pytest.raises(TaskLost):
                system.dispatch((end_at, [number, 200]) for number in range(400))
            assert system.dispatch((end_at, [n, -1]) for n in range(200)) == [*range(200)]
        finally:
            use_cluster(None)


def test_arguments_that_cannot_travel_are_an_error_of_the_dispatch(system: OpusOS) -> None:
    with pytest.raises(CannotTravel, match="first"):
        system.dispatch((first, [[1 if n < 50 else unpicklable()]]) for n in range(99))


def unpicklable() -> Any:
    """Something that cannot be pickled."""
    return (value for value in ())


def test_slots_with_jobs_are_not_free(system: OpusOS, cluster: Cluster) -> None:
    seen: list[tuple[int, int, int, int]] = []

    def collect() -> Collector:
        while True:
            yield
            running = cluster.tasks()
            status = MPI.vmStatus
            assert status is not None
            taken = [slot for slot, of in status["slots"].items() if of["taskNumber"] >= 0]
            free, numbers = MPI.freeSlots(), len(MPI.freeSlotsSet())
            shown = MPI.formatSpawnerConfig().count("task=")
            if cluster.tasks() == running:  # otherwise a job has ended meanwhile
                seen.append((free, numbers, len(taken), shown))

    system.dispatch(((time.sleep, [0.01 * (n % 2)]) for n in range(20)), collect())
    assert any(taken > 1 for _, _, taken, _ in seen)  # a job beside the spawner
    assert {free + taken for free, _, taken, _ in seen} == {SLOTS + 1}
    assert all(free == numbers and taken == shown for free, numbers, taken, shown in seen)


def test_waiting_task_precedes_later_jobs(
    system: OpusOS,
) -> None:
    pytest.importorskip("greenlet")
    drawn: list[int] = []
    came_at: list[int] = []

    def other() -> None:
        tid = system.Spawn(abs, [-7], remote=True)
        came_at.append(len(drawn))
        assert system.Join([tid]) == {tid: 7}

    def jobs() -> Iterator[Any]:
        for number in range(2000):
            if number == 500:
                system.Spawn(other)
            drawn.append(number)
            yield abs, [number]

    assert system.dispatch(jobs()) == [*range(2000)]
    while system.Join():
        pass
    assert 501 <= came_at[0] <= 540


def test_jobs_whose_results_were_not_asked_for_leave_no_room() -> None:
    jobs = JobsSentAhead(None)
    task: Any = None
    jobs.running[1] = task
    jobs.ended.append(task)
    jobs.ahead = 3
    assert jobs.room(3, ahead=False) == 1
    assert jobs.room(3, ahead=True) == 10


def test_messages_of_others_do_not_begin_a_wait_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [100.0], list[float | None]()

    def fetch(wait: float | None) -> tuple[Any, ...] | None:
        waits.append(wait)
        now[0] += 2.0
        return ("other", len(waits)) if len(waits) < 4 else None

    monkeypatch.setattr(mailbox.time, "monotonic", lambda: now[0])
    mail = mailbox.Mailbox(fetch)
    assert mail.get(5.0, "wanted") == ()
    assert waits == [5.0, 3.0, 1.0, 0.0]
    assert [mail.here() for _ in range(3)] == [("other", 1), ("other", 2), ("other", 3)]


class Ended:
    """A scheduler whose tasks have ended with these errors, all together."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = dict(enumerate(errors, 1))
        self.started: list[int] = []
        self.taken_back: list[list[int]] = []
        self.vm = SimpleNamespace(slots=lambda: 4, freeSlots=lambda: 2 - len(self.started))

    def call(self, call: object) -> Any:
        if isinstance(call, Job):
            self.started.append(len(self.started) + 1)
            return self.started[-1]
        ended = [tid for tid in self.started if tid in self.errors]
        return {tid: self._child(tid) for tid in ended} if len(ended) == len(self.errors) else {}

    def _child(self, tid: int) -> SimpleNamespace:
        return SimpleNamespace(tid=tid, error=self.errors.pop(tid), retval=tid, remoteHostID=None)

    def take_back(self, tids: Any) -> None:
        self.taken_back.append(list(tids))


def test_the_first_of_several_errors_is_raised_and_what_waits_is_taken_back() -> None:
    scheduler: Any = Ended(KeyError("first"), KeyError("second"))
    run = Dispatch(scheduler, print, print, remote=False, independent=False)
    with pytest.raises(KeyError, match="first"):
        run.run([(len,)] * 5)
    assert scheduler.started == [1, 2]
    assert scheduler.taken_back == [[]]


@pytest.mark.parametrize("function", [len, lambda _: 1 / 0])
def test_a_task_that_has_ended_is_no_longer_known_to_its_process(
    function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustered, "current_task", lambda: SimpleNamespace(id=7, host="here"))
    machine: Any = SimpleNamespace(debug=0, mirrorList=None, _startup=None)
    with suppress(ZeroDivisionError):
        clustered.run_task(machine, 0, function, ("",), {})
    assert clustered.running == {}

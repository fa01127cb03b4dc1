"""Tasks that are killed, crash, run out of time, or are cancelled."""

# ruff: noqa: S101

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.cluster.events import TaskExit, TaskResult
from encamp.errors import InputError, TaskKilled, TaskLost, TimeLimitExceeded
from encamp.storage.shared_folders import portable
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    gates,
    next_message,
    on_every_slot,
    results,
)
from encamp.testing.waiting import gone, until

CRASHES = [("exit", 3), ("kill", -9), ("segv", -11)]


class Endings(Bound):
    """Kill, crash, time limits, cancel."""

    @pytest.mark.parametrize(
        "function", [work.wait_for_ever, work.deaf, work.blocked_in_c, work.family]
    )
    def test_a_running_task_can_be_killed_whatever_it_does(
        self, cluster: Cluster, function: Callable[[], Any]
    ) -> None:
        with gates(cluster, cluster.slots - 1, work.pid) as neighbours:
            task = cluster.spawn(function, name="the victim")
            pid = self.pid_sent_by(cluster, task)
            task.kill()
            with pytest.raises(TaskKilled, match="the victim"):
                task.result(PATIENCE)
            until(lambda: gone(pid))
        assert len(results(neighbours)) == cluster.slots - 1
        assert len(set(on_every_slot(cluster, work.host_and_pid))) == cluster.slots

    def test_a_killed_task_reports_its_result_and_its_exit(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.wait_for_ever)
        next_message(cluster, task)
        task.kill()
        first, second = (cluster.receive(PATIENCE, source=task) for _ in range(2))
        assert first is not None
        assert second is not None
        assert isinstance(first.message, TaskResult)
        assert isinstance(first.message.value, TaskKilled)
        assert isinstance(second.message, TaskExit)

    def test_killing_a_waiting_task_takes_it_back(self, cluster: Cluster, marks: Path) -> None:
        with gates(cluster, cluster.slots, work.pid):
            waiting = cluster.spawn_many(work.count_run, [(portable(marks), "x")] * 20)
            for task in waiting:
                task.kill()
            for task in waiting:
                with pytest.raises((CancelledError, TaskKilled)):
                    task.result(PATIENCE)
        on_every_slot(cluster, work.pid)
        assert not (marks / "x").exists()

    def test_killing_a_task_that_has_ended_changes_nothing(self, cluster: Cluster) -> None:
        places = set(on_every_slot(cluster, work.host_and_pid))
        task = cluster.spawn(work.add, 1)
        assert task.result(PATIENCE) == 2
        task.kill()
        task.kill()
        assert task.result(0) == 2
        assert set(on_every_slot(cluster, work.host_and_pid)) == places

    def test_a_kill_that_comes_late_hits_no_other_task(self, cluster: Cluster) -> None:
        for _ in range(12):
            task = cluster.spawn(work.add, 1)
            later = cluster.spawn_many(work.add, [(2,)] * 8)
            task.kill()
            assert results(later) == [3] * 8

    def test_kill_all_ends_everything_and_the_cluster_goes_on(self, cluster: Cluster) -> None:
        running = cluster.spawn_many(work.wait_for_ever, [()] * cluster.slots)
        pids = [self.pid_sent_by(cluster, task) for task in running]
        waiting = cluster.spawn_many(work.pid, [()] * 50)
        cluster.kill_all()
        for task in (*running, *waiting):
            with pytest.raises((TaskKilled, CancelledError)):
                task.result(PATIENCE)
        until(lambda: all(gone(pid) for pid in pids))
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20

    @pytest.mark.parametrize(("how", "code"), CRASHES)
    def test_a_crash_is_told_with_its_exit_code_and_harms_no_neighbour(
        self, cluster: Cluster, how: str, code: int
    ) -> None:
        with gates(cluster, cluster.slots - 1, work.pid) as neighbours:
            task = cluster.spawn(work.die, how, name="the victim")
            with pytest.raises(TaskLost, match="the victim") as caught:
                task.result(PATIENCE)
            assert caught.value.exit_code == code
            assert caught.value.host == task.host
        assert len(results(neighbours)) == cluster.slots - 1
        assert len(set(on_every_slot(cluster, work.host_and_pid))) == cluster.slots

    def test_a_crash_is_told_as_result_and_exit(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.die, "exit")
        first, second = (cluster.receive(PATIENCE, source=task) for _ in range(2))
        assert first is not None
        assert second is not None
        assert isinstance(first.message, TaskResult)
        assert (first.message.ok, type(first.message.value)) == (False, TaskLost)
        assert isinstance(second.message, TaskExit)

    def test_what_was_done_before_a_crash_is_not_lost(self, cluster: Cluster) -> None:
        results(cluster.spawn_many(work.die_at, [(0, -1)] * 100))  # known to be quick from now on
        tasks = cluster.spawn_many(work.die_at, [(number, 250) for number in range(500)])
        with pytest.raises(TaskLost):
            tasks.pop(250).result(PATIENCE)
        assert results(tasks) == [number for number in range(500) if number != 250]

    def test_results_do_not_wait_for_a_call_behind_them(self, cluster: Cluster) -> None:
        results(cluster.spawn_many(work.wait_at, [(0, -1)] * 100))
        tasks = cluster.spawn_many(work.wait_at, [(number, 250) for number in range(500)])
        waits = tasks.pop(250)
        assert results(tasks) == [number for number in range(500) if number != 250]
        assert not waits.done()
        cluster.send(waits, None)
        assert waits.result(PATIENCE) == 250
        assert results(cluster.spawn_many(work.add, [(1,)] * 100)) == [2] * 100

    @pytest.mark.parametrize(("how", "code"), CRASHES)
    def test_tasks_behind_one_that_crashes_run_exactly_once(
        self, cluster: Cluster, marks: Path, how: str, code: int
    ) -> None:
        fatal = cluster.spawn_many(work.die_after, [(how,)] * cluster.slots)
        assert [next_message(cluster, task) for task in fatal] == ["ready"] * cluster.slots
        names = [f"task-{number}" for number in range(200)]
        behind = cluster.spawn_many(work.count_run, [(portable(marks), name) for name in names])
        for task in fatal:
            cluster.send(task, "now")
        for task in fatal:
            assert isinstance(task.exception(PATIENCE), TaskLost)
        results(behind)
        assert {name: (marks / name).read_bytes() for name in names} == dict.fromkeys(names, b"x")

    def test_crashes_among_many_tasks_lose_only_those_that_crash(
        self, cluster: Cluster, marks: Path
    ) -> None:
        folder = portable(marks)
        quick = [(folder, f"quick-{number}", "") for number in range(200)]
        results(cluster.spawn_many(work.count_run_and_die, quick))  # so that slots get many ahead
        fatal = dict.fromkeys(range(7, 400, 80), "kill")
        mixed = [(folder, f"task-{number}", fatal.get(number, "")) for number in range(400)]
        tasks = cluster.spawn_many(work.count_run_and_die, mixed)
        errors = [task.exception(2 * PATIENCE) for task in tasks]
        assert {number for number, error in enumerate(errors) if error is not None} == set(fatal)
        assert all(isinstance(errors[number], TaskLost) for number in fatal)
        assert {path.read_bytes() for path in marks.iterdir()} == {b"x"}
        assert len(list(marks.iterdir())) == 600

    def test_an_idle_slot_that_is_killed_is_started_again(self, cluster: Cluster) -> None:
        before = on_every_slot(cluster, work.host_and_pid)
        pid = self.here(*before[0])
        os.kill(pid, signal.SIGKILL)
        until(lambda: gone(pid))
        until(lambda: cluster.free_slots == cluster.slots)
        tasks = cluster.spawn_many(work.pid, [()] * 3 * cluster.slots)
        assert all(isinstance(task.exception(PATIENCE), TaskLost | None) for task in tasks)
        after = on_every_slot(cluster, work.host_and_pid)
        assert before[0] not in after
        assert len(set(after)) == cluster.slots

    def test_a_task_that_is_stopped_with_its_slot_is_no_crash(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.tell_pid_and_wait)
        own = next_message(cluster, task)
        pid = self.here(task.host, own)
        os.kill(pid, signal.SIGSTOP)
        cluster.send(task, "go")
        with pytest.raises(TimeoutError):
            task.result(0.3)
        os.kill(pid, signal.SIGCONT)
        assert task.result(PATIENCE) == own

    @pytest.mark.parametrize("function", [work.wait_for_ever, work.deaf, work.blocked_in_c])
    def test_a_time_limit_ends_a_task_whatever_it_does(
        self, cluster: Cluster, function: Callable[[], Any]
    ) -> None:
        task = cluster.spawn(function, time_limit=0.4, name="the slow one")
        pid = self.pid_sent_by(cluster, task)
        with pytest.raises(TimeLimitExceeded, match="the slow one"):
            task.result(PATIENCE)
        until(lambda: gone(pid))
        assert cluster.spawn(work.add, 1, time_limit=20).result(PATIENCE) == 2

    def test_a_time_limit_counts_from_when_the_task_begins(self, cluster: Cluster) -> None:
        with gates(cluster, cluster.slots, work.pid):
            waiting = cluster.spawn_many(work.add, [(1,)] * 2 * cluster.slots, time_limit=0.5)
            time.sleep(0.8)
        assert results(waiting) == [2] * 2 * cluster.slots

    def test_a_limit_of_no_time_or_less_is_refused(self, cluster: Cluster) -> None:
        for limit in (0, -1):
            with pytest.raises(InputError, match="time_limit"):
                cluster.spawn(work.add, 1, time_limit=limit)

"""Reports of attempts that were killed, and the time that counts for their limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import encamp
from encamp.errors import TaskLost
from encamp.jobs.display.terminal import _line
from encamp.jobs.progress_interface import Silent
from encamp.jobs.report.timeline import Lanes
from encamp.jobs.run_clock import Clock
from encamp.jobs.worker.resource_usage import ResourceUsage
from encamp.loop import time_limit_clock
from encamp.loop.time_limit_clock import RunningTime
from encamp.reports import AttemptReport
from encamp.storage.local_storage import local_storage
from encamp.storage.owned_folder import OwnedFolder, sandboxes
from encamp.testing.waiting import until


def _work() -> None:
    """Use CPU time for ever."""
    while True:
        pass


def _die() -> None:
    until_used = time.process_time() + 0.05
    while time.process_time() < until_used:
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _check(attempt: AttemptReport, *names: str) -> None:
    assert attempt.where is not None
    assert attempt.where.pid > 0
    assert [phase.name for phase in attempt.phases] == ["job prephase", "task prephase", *names]
    ends = [attempt.submitted]
    for phase in attempt.phases:
        assert phase.seconds >= 0
        assert phase.start >= ends[-1] - 0.01
        ends.append(phase.start + phase.seconds)


class Deadly:
    """Kills the process that pickles it."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def _deadly() -> Deadly:
    return Deadly()


def test_attempt_killed_after_its_steps_is_in_last_phase(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("a", _deadly)
    (attempt,) = job.run(slots=1, check=False)["a"].attempts
    _check(attempt, "_deadly", "task postphase")


class Homeless:
    """Kills the process that unpickles it, when that has a folder of which nobody knows."""

    def __reduce__(self) -> Any:
        return _die_with_a_folder, ()


def _die_with_a_folder() -> None:
    OwnedFolder("unknown")
    os.kill(os.getpid(), signal.SIGKILL)


def test_leftovers_of_attempt_killed_early_are_removed(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("a", encamp.call(print, Homeless()))
    (attempt,) = job.run(slots=1, check=False)["a"].attempts
    assert attempt.error_type == "TaskLost"
    assert list(sandboxes(local_storage()).iterdir()) == []


def _fill_memory(size: int) -> None:
    bytes(size).decode("latin-1")


def test_memory_of_attempt_excludes_previous_attempts(here: Path) -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this kernel does not forget the most memory that a process had")
    job = encamp.Job("job", to="out")
    job.add("large", encamp.call(_fill_memory, 64 << 20))
    job.add("small", encamp.call(_fill_memory, 1), after="large")
    report = job.run(slots=1)
    large, small = (report[name].attempts[-1] for name in ("large", "small"))
    assert large.where == small.where
    assert large.peak_memory - small.peak_memory > 32 << 20


def test_killed_attempts_have_their_times_place_and_cpu(here: Path) -> None:
    (here / "input").write_text("12345")
    job = encamp.Job("job", to="out")
    shell = encamp.command("while :; do :; done", shell=True)
    limits: dict[str, Any] = {"time_limit": 0.5, "mirror": "input"}
    job.add("call", _work, **limits)
    job.add("command", ["true", shell], **limits)
    job.add("dies", _die, retries=1)
    for number in range(3):
        job.add(f"after-{number}", "true", after="dies") if number else job.add("fine", "true")
    report = job.run(slots=2, check=False)
    call, command = (report[name].attempts[0] for name in ("call", "command"))
    _check(call, "_work")
    _check(command, "true", "while :; do :; done")
    for attempt in (call, command):
        assert attempt.phases[-1].seconds > 0.4
        assert attempt.cpu_seconds > 0.02
        assert attempt.peak_memory > 1 << 20
        assert (attempt.bytes_mirrored, attempt.files_mirrored) == (5, 1)
    assert " in 0 ms" not in _line(report["call"])
    for attempt in report["dies"].attempts:
        _check(attempt, "_die")
    processes = {a.where.pid for task in report.tasks for a in task.attempts if a.where}
    assert len(processes) > 2  # they were replaced
    lanes = Lanes(report).lanes
    assert {lane.worker for lane in lanes} <= {"slot-0", "slot-1"}
    assert len(lanes) <= 2


def test_attempt_lost_with_its_host_has_times_and_host(here: Path) -> None:
    class Losing(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            lost: Future[Any] = Future()
            lost.host, lost.slot = "node7", 3  # type: ignore[attr-defined]  # as a `Task` has
            lost.set_exception(TaskLost("a", "node7", None, "its host is gone"))
            return lost

    job = encamp.Job("job", to="out")
    job.add("a", "true")
    with Losing(1) as pool:
        report = job.run(pool, check=False)
    assert len(report["a"].attempts) == 4
    for attempt in report["a"].attempts:
        assert attempt.where is not None
        assert (attempt.where.host, attempt.where.worker) == ("node7", "slot-3")
        [phase] = attempt.phases
        assert phase.name == "lost"
        assert phase.start >= attempt.submitted
        assert phase.seconds >= 0


def test_usage_includes_descendants_of_slot(tmp_path: Path) -> None:
    code = "while :; do :; done & while :; do :; done"
    process = subprocess.Popen(["sh", "-c", code], start_new_session=True)
    try:
        use = ResourceUsage()
        use.look()
        assert use.cpu_seconds == 0
        use.begin(process.pid, -1.0)
        family = psutil.Process(process.pid)
        until(lambda: any(one.cpu_times().user > 0.1 for one in family.children()))
        use.look()
        own = family.cpu_times()
        assert use.cpu_seconds - 1 > own.user + own.system - 0.05
        assert use.cpu_seconds > 1.05
        assert use.peak_memory > 0
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = use.cpu_seconds
    use.look()
    assert use.cpu_seconds == before


class _SetsClockBack(Silent):
    """Sets the clock back by an hour when the first task ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def ended(self, task: object) -> None:
        real = time.time
        self.monkeypatch.setattr(time, "time", lambda: real() - 3600)
        self.ended = lambda task: None  # type: ignore[method-assign]


def test_a_clock_that_is_set_back_makes_nothing_negative(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = encamp.Job("job", to="out")
    job.add("a", "true")
    job.add("b", "true", after="a")
    report = job.run(slots=1, progress=_SetsClockBack(monkeypatch))
    assert 0 < report.ended - report.started < 600
    for task in report.tasks:
        [attempt] = task.attempts
        assert report.started <= attempt.submitted <= report.ended
        _check(attempt, "true", "task postphase")
        assert attempt.phases[-1].start <= report.ended


def test_a_clock_is_the_same_in_all_processes_of_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: 12.0)
    assert clock.began <= clock.now() < clock.began + 60
    assert Clock(boot="another host's").now() == 12.0


def test_time_in_which_this_process_was_stopped_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ran = RunningTime()
    began = ran()
    for passed, counted in (
        (0.5, 0.5),
        (13.0, 0.5 + time_limit_clock.NOTICED),
        (0.2, 0.7 + time_limit_clock.NOTICED),
    ):
        now += passed
        assert ran() - began == pytest.approx(counted)


_STOPPED = """
import encamp, os, sys, threading, time
def nap(folder, name):
    open(f"{folder}/{name}", "w").close()
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)
def spawn():
    with encamp.Cluster("local", slots=1) as cluster:
        print(cluster.spawn(nap, sys.argv[1], "task", time_limit=4).exception(), flush=True)
thread = threading.Thread(target=spawn)
thread.start()
job = encamp.Job("job", to="out", time_limit=4)
job.add("a", encamp.call(nap, sys.argv[1], "job"))
report = job.run(slots=1, check=False)
thread.join()
print(report["a"].state)
"""


def test_a_limit_does_not_count_the_time_in_which_all_was_stopped(here: Path) -> None:
    script = here / "script.py"
    script.write_text(_STOPPED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(here)], stdout=subprocess.PIPE, text=True
    )
    try:
        until(lambda: (here / "task").exists() and (here / "job").exists())
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        for one in family:
            one.suspend()
        time.sleep(5)  # the thing tested: time in which nothing runs
        (here / "go").touch()
        for one in family:
            one.resume()
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert out == "None\ndone\n"


def test_another_host_counts_time_by_its_own_clock() -> None:
    """Its time since it was started says nothing of the controller's."""
    here = Clock(began=1000.0, monotonic=time.monotonic() - 5)
    assert 1005.0 <= here.now() < 1_000_000_000
    assert Clock(began=1000.0, boot="another").now() > 1_000_000_000

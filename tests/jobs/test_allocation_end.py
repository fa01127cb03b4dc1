"""Jobs near the end of an allocation: which tasks are not started or are cancelled."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from scripted import Scripted

import encamp
from encamp import slurm
from encamp.attempt_facts import Span
from encamp.errors import OutOfTime
from encamp.jobs.run.allocation_end import STOP_BEFORE, TimeLeft
from encamp.jobs.worker.work_and_outcome import Outcome


@pytest.fixture(autouse=True)
def allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")


def _ends(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """So many seconds are left; each time that the end is asked for it is the next of these."""
    ends = [time.time() + STOP_BEFORE + one for one in seconds]
    monkeypatch.setattr(slurm, "end_time", lambda: ends.pop(0) if len(ends) > 1 else ends[0])


def test_task_that_cannot_finish_before_deadline_is_not_started(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ends(monkeypatch, 100)
    job = encamp.Job("job", to="out")
    job.add("long", "true", time_limit=101)
    job.add("after", "true", after=["long"])
    job.add("short", "false", time_limit=50)
    job.add("free", "cat")
    executor = Scripted()
    with pytest.raises(OutOfTime) as caught:
        job.run(executor)
    assert [work.task for work in executor.works] == ["short", "free"]
    text = str(caught.value)
    assert (
        "stopped with 2 of 4 tasks done, because the allocation of Slurm's job 17 ends at " in text
    )
    assert text.endswith(" and task long may take 101 s; run again to continue")
    _ends(monkeypatch, 1000)
    report = job.run(executor)
    assert [task.state for task in report.tasks] == ["done", "done", "up to date", "up to date"]


def test_an_end_that_was_moved_gives_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ends(monkeypatch, 100, 1000)
    job = encamp.Job("job", to="out")
    job.add("long", "true", time_limit=101)
    assert job.run(Scripted()).ok


def test_measured_durations_outweigh_time_limit(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ends(monkeypatch, 100)
    job = encamp.Job("job", to="out")
    job.add("one", "cat a", time_limit=500)
    job.add("two", "cat b", time_limit=500)
    job.add("other", "ls", time_limit=500)
    left = TimeLeft(job.tasks.values())
    assert left.short
    assert not left.enough_for(job.tasks["two"])
    left.note(job.tasks["one"], [Span("task prephase", 0.0, 1.0), Span("cat", 1.0, 4.0)])
    assert left.enough_for(job.tasks["two"])
    assert not left.enough_for(job.tasks["other"])
    left = TimeLeft(job.tasks.values())
    left.note(job.tasks["one"], [Span("cat", 0.0, 400.0)])
    assert not left.enough_for(job.tasks["two"])


def test_waiting_tasks_are_cancelled_when_time_is_short(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ends(monkeypatch, 100)
    job = encamp.Job("job", to="out")
    for number in range(3):
        job.add(f"t{number}", "true")
    took = Outcome(phases=[Span("true", 0.0, 400.0)])
    executor = Scripted({"t0": [took]}, held=100, quick=["t0"])
    with pytest.raises(OutOfTime, match="stopped with 1 of 3 tasks done"):
        job.run(executor)
    assert [work.task for work in executor.works] == ["t0", "t1", "t2"]
    assert all(future.cancelled() for future, _ in executor.waiting)


def test_running_tasks_are_stopped_in_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ends(monkeypatch, 1)
    job = encamp.Job("job", to="out")
    job.add("quick", "touch quick", outputs=["quick"])
    job.add("long", ["touch begun", "sleep 600"], outputs=["begun"])
    with pytest.raises(OutOfTime, match="stopped with 1 of 2 tasks done"):
        job.run(slots=2)
    assert Path("out/quick").exists()
    assert not Path("out/begun").exists()


def test_without_an_allocation_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert slurm.end_time() is None
    assert not TimeLeft([]).limited


def test_a_limit_for_all_tasks_counts_for_their_own(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ends(monkeypatch, 100)
    job = encamp.Job("job", to="out")
    job.add("one", "true", time_limit=500)
    left = TimeLeft(job.tasks.values(), 50.0)
    assert not left.short
    assert left.enough_for(job.tasks["one"])
    assert not TimeLeft(job.tasks.values(), 101.0).enough_for(job.tasks["one"])

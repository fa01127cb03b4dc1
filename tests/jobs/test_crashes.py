"""A task that crashes or never ends affects no others and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from job_steps import background, counted, deaf, die, fail, run_for_ever, spin, write

import encamp
from encamp.jobs.steps import as_step
from encamp.reports import JobReport


@pytest.fixture(autouse=True)
def _buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slots hold back what they print, as they do for users."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _parts() -> list[Path]:
    return list(Path("out").rglob(".encamp-*"))


def _with_neighbours(*steps: Any, **options: Any) -> JobReport:
    job = encamp.Job("job", to="out")
    for name in ("before", "after"):
        job.add(name, encamp.call(write, f"{name}.txt"), outputs=f"{name}.txt")
        if name == "before":
            job.add("bad", list(steps), outputs={"*.txt": "."}, **options)
    report = job.run(slots=2, check=False)
    assert {report[name].state for name in ("before", "after")} == {"done"}
    assert report["bad"].state == "failed"
    assert {path.name for path in Path("out").glob("*.txt")} == {"before.txt", "after.txt"}
    assert _parts() == []
    return report


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("segv", "TaskLost", "was killed by SIGSEGV, a crash in compiled code"),
        ("kill", "TaskLost", "was killed by SIGKILL, often because memory ran out"),
        ("exit 0", "TaskLost", "ended with exit status 0"),
        ("exit 3", "TaskLost", "ended with exit status 3"),
        ("sys.exit", "StepFailed", "raised SystemExit: 4"),
        ("interrupt", "StepFailed", "raised KeyboardInterrupt"),
    ],
)
def test_crash_is_reported_and_isolated(here: Path, how: str, kind: str, message: str) -> None:
    report = _with_neighbours(encamp.call(write, "bad.txt"), encamp.call(die, how))
    bad = report["bad"]
    assert bad.attempts[0].error_type == kind
    assert message in bad.why
    assert f"last words before {how}" in bad.log_tail
    assert bad.log is not None
    assert f"last words before {how}" in Path("out/job.job", bad.log).read_text()
    if how == "segv":
        assert "Segmentation fault" in bad.log_tail


def test_a_crash_takes_along_what_the_task_has_in_the_background(here: Path) -> None:
    pids = here / "pids"
    report = _with_neighbours(
        encamp.call(background, str(pids), session=True, wait=False), encamp.call(die, "exit 3")
    )
    assert "exit status 3" in report["bad"].why
    assert _gone(int(pids.read_text()))


@pytest.mark.parametrize("session", [False, True])
def test_background_processes_end_with_their_task(here: Path, session: bool) -> None:
    pids = here / "pids"
    job = encamp.Job("job", to="out")
    job.add("task", encamp.call(background, str(pids), session=session, wait=False))
    job.run()
    assert _gone(int(pids.read_text()))


@pytest.mark.parametrize(
    "step",
    [
        spin,
        deaf,
        encamp.command("sleep 600"),
        encamp.command("trap '' TERM; while :; do sleep 1; done", shell=True),
        encamp.command("setsid sleep 600 & sleep 600", shell=True),
    ],
    ids=["busy", "deaf", "sleep", "ignores SIGTERM", "background"],
)
@pytest.mark.parametrize("whose", ["task", "step"])
def test_a_time_limit_ends_whatever_runs(here: Path, step: Any, whose: str) -> None:
    step = as_step(step)
    limits: dict[str, Any] = {"time_limit": 0.4}
    if whose == "step":
        step, limits = replace(step, time_limit=0.4), {}
    report = _with_neighbours(encamp.call(write, "bad.txt"), step, **limits)
    bad = report["bad"]
    assert bad.attempts[0].error_type == "TimeLimitExceeded"
    which = f"step {step.label!r}" if whose == "step" else "task bad"
    assert bad.why == f"{which} ran longer than its limit of 0.4 s"


@pytest.mark.parametrize("session", [False, True])
def test_a_time_limit_ends_background_processes_that_ignore_sigterm(
    here: Path, session: bool
) -> None:
    pids = here / "pids"
    _with_neighbours(encamp.call(background, str(pids), session=session, wait=True), time_limit=1.0)
    assert _gone(int(pids.read_text()))


def test_a_command_has_time_to_end_in_good_order(here: Path) -> None:
    words = here / "words"
    line = f"trap 'sleep 0.3; echo bye > {words}; exit' TERM; while :; do sleep 0.05; done"
    _with_neighbours(encamp.command(line, shell=True), time_limit=3)
    assert words.read_text() == "bye\n"


def test_a_time_limit_that_is_kept_is_not_felt(here: Path) -> None:
    job = encamp.Job("job", to="out", time_limit=60)
    job.add("task", ["sleep 0.5", encamp.command("sleep 0.3", time_limit=60)])
    assert job.run().ok


def test_a_tasks_limit_is_for_all_its_steps_together(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("task", ["sleep 0.4"] * 12, time_limit=1.0)
    report = job.run(check=False)["task"]
    assert report.state == "failed"
    assert report.why == "task task ran longer than its limit of 1 s"


def test_a_steps_limit_is_for_that_step_alone(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("task", [encamp.command("sleep 0.6", time_limit=2.0)] * 4)
    assert job.run()["task"].state == "done"


def test_endless_step_of_short_commands_is_ended(here: Path) -> None:
    _with_neighbours(run_for_ever, time_limit=0.5)


def test_a_task_is_tried_again_up_to_its_limit_and_no_further(here: Path) -> None:
    counter = here / "counter"
    job = encamp.Job("job", to="out", retries=2)
    job.add("task", encamp.call(fail, str(counter), 2), outputs="out.txt")
    report = job.run()["task"]
    assert [attempt.number for attempt in report.attempts] == [1, 2, 3]
    assert [attempt.error is None for attempt in report.attempts] == [False, False, True]
    assert len(counted(counter)) == 3
    job.add("other", encamp.call(fail, str(here / "other"), 5), retries=1)
    report = job.run(check=False)["other"]
    assert [attempt.number for attempt in report.attempts] == [1, 2]
    assert len(counted(here / "other")) == 2
    report = job.run(check=False)["other"]
    assert [attempt.number for attempt in report.attempts] == [3, 4]


def test_a_crashed_task_is_tried_again(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("task", encamp.call(die, "kill"), retries=2)
    report = job.run(check=False)["task"]
    assert [attempt.error_type for attempt in report.attempts] == ["TaskLost"] * 3
    slots = {attempt.where.pid for attempt in report.attempts if attempt.where}
    assert len(slots) == 3

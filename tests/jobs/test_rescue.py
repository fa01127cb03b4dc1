"""``on_failure``: files of failed tasks are published whole, and never replace good results."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from job_steps import fail, write

import encamp
from encamp.errors import OutputConflict, UnsafeTarget
from encamp.jobs.steps import Step
from encamp.reports import JobFailed, TaskReport
from encamp.storage.outputs.patterns import Output, OutputMap
from encamp.storage.outputs.still_intact import intact

LEAVE: OutputMap = {"part.txt": "failed", "none.txt": "failed"}


def run_one(*steps: Step, on_failure: OutputMap = LEAVE, **options: Any) -> TaskReport:
    job = encamp.Job("job", to="out")
    job.add("task", list(steps), on_failure=on_failure, **options)
    return job.run(slots=1, check=False)["task"]


def results() -> dict[str, str]:
    """All that is in the destination, less what is the job's own."""
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert not list(Path("out").rglob(".encamp-*"))
    texts = {str(p.relative_to("out")): p.read_text() for p in files if "job.job" not in p.parts}
    return dict(sorted(texts.items()))


def half_then(end: str) -> None:
    """Write a file, then end in some bad way."""
    Path("part.txt").write_text("half\n")
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "exit":
        os._exit(3)
    if end == "abort":
        os.abort()
    while end == "last":
        time.sleep(60)
    raise ValueError("mine")


@pytest.mark.parametrize(
    ("end", "error", "limit"),
    [
        ("raise", "StepFailed", None),
        ("kill", "TaskLost", None),
        ("exit", "TaskLost", None),
        ("abort", "TaskLost", None),
        ("last", "TimeLimitExceeded", 0.4),
    ],
)
def test_failed_crashed_or_timed_out_task_keeps_on_failure_files(
    end: str, error: str, limit: float | None, here: Path
) -> None:
    report = run_one(encamp.call(half_then, end), time_limit=limit, outputs="part.txt")
    assert (report.state, report.attempts[-1].error_type) == ("failed", error)
    assert results() == {"failed/part.txt": "half\n"}
    assert report.outputs == []
    (rescued,) = report.rescued
    assert rescued.path == str(here / "out/failed/part.txt")
    assert intact(rescued)


@pytest.mark.parametrize(
    ("line", "error"),
    [("exit 3", "StepFailed"), ("kill -9 $$", "StepFailed"), ("kill -9 $PPID", "TaskLost"),
     ("sleep 600", "TimeLimitExceeded")],
)  # fmt: skip
def test_failed_command_keeps_on_failure_files(line: str, error: str, here: Path) -> None:
    step = encamp.command(f"echo half > part.txt; {line}", shell=True, time_limit=0.4)
    report = run_one(step)
    assert report.attempts[-1].error_type == error
    assert results() == {"failed/part.txt": "half\n"}


def test_a_task_whose_output_is_missing_leaves_what_it_has(here: Path) -> None:
    run_one("touch other", encamp.call(write, "part.txt"), outputs=["part.txt", "missing"])
    assert results() == {"failed/part.txt": "made\n"}


def test_successful_task_leaves_no_on_failure_files(here: Path) -> None:
    report = run_one(encamp.call(write, "part.txt"), outputs={"part.txt": "good"})
    assert report.state == "done"
    assert results() == {"good/part.txt": "made\n"}
    assert report.rescued == []


def test_only_the_last_try_leaves_something(here: Path) -> None:
    report = run_one(
        encamp.command(f"echo x >> {here}/tries; cp {here}/tries part.txt; false", shell=True),
        retries=2,
    )
    assert len(report.attempts) == 3
    assert results() == {"failed/part.txt": "x\nx\nx\n"}


def test_task_that_succeeds_on_retry_leaves_no_on_failure_files(here: Path) -> None:
    steps = [encamp.call(write, "part.txt"), encamp.call(fail, str(here / "counter"), 1)]
    report = run_one(*steps, outputs="out.txt", retries=1)
    assert report.state == "done"
    assert results() == {"out.txt": "at last\n"}


def test_whole_folders_and_globs_can_be_left_under_other_names(here: Path) -> None:
    left = [Output("deep", "trees"), Output("*.log", "logs", rename="task-{name}")]
    line = (
        "mkdir deep; echo 1 > deep/a; echo 2 > b.log; mkfifo fifo; ln -s /etc/passwd c.log; false"
    )
    run_one(encamp.command(line, shell=True), on_failure=left)
    assert results() == {"logs/task-b.log": "2\n", "trees/deep/a": "1\n"}


def test_inputs_that_a_failed_task_left_alone_can_be_among_it(here: Path) -> None:
    Path("in.txt").write_text("input")
    run_one("false", mirror="in.txt", on_failure={"*.txt": "failed"})
    assert results() == {"failed/in.txt": "input"}


def test_a_later_good_run_replaces_nothing_and_is_up_to_date_afterwards(here: Path) -> None:
    counter = str(here / "counter")

    def job() -> encamp.Job:
        job = encamp.Job("job", to="out")
        steps = [encamp.call(write, "part.txt", "half"), encamp.call(fail, counter, 1)]
        job.add("task", steps, outputs="out.txt", on_failure=LEAVE)
        return job

    with pytest.raises(JobFailed) as caught:
        job().run(slots=1)
    assert len(caught.value.report["task"].rescued) == 1
    assert job().run(slots=1)["task"].state == "done"
    assert results() == {"failed/part.txt": "half", "out.txt": "at last\n"}
    assert job().run(slots=1)["task"].state == "up to date"


@pytest.mark.parametrize("existing", ["keep", "error"])
def test_existing_keep_does_not_replace_rescued_files(existing: Any, here: Path) -> None:
    Path("out/failed").mkdir(parents=True)
    Path("out/failed/part.txt").write_text("earlier")
    left = Output("part.txt", "failed", existing=existing)
    report = run_one(encamp.call(half_then, "raise"), on_failure=left)
    assert report.attempts[-1].error_type == "StepFailed"
    assert results() == {"failed/part.txt": "earlier"}


def test_rescue_failure_does_not_hide_task_error(here: Path) -> None:
    Path("out").mkdir()
    Path("out/failed").write_text("a file, not a folder")
    job = encamp.Job("job", to="out")
    job.add("task", encamp.call(half_then, "raise"), on_failure={"part.txt": "out/failed"})
    Path("out/out").mkdir()
    Path("out/out/failed").mkdir()
    Path("out/out/failed/part.txt").mkdir()
    report = job.run(slots=1, check=False)["task"]
    assert report.attempts[-1].error_type == "StepFailed"
    assert report.rescued == []
    assert not list(Path("out").rglob(".encamp-*"))


def test_a_job_may_replace_what_it_has_left_itself(here: Path) -> None:
    left = Output("part.txt", "failed", existing="error")
    for text in ("one", "two"):
        steps = [encamp.call(write, "part.txt", text), "false"]
        assert len(run_one(*steps, on_failure=left).rescued) == 1
        assert results() == {"failed/part.txt": text}


@pytest.mark.parametrize("pattern", ["../log", "/etc/passwd", "a/../../log"])
def test_a_pattern_that_leaves_the_folder_is_refused_before_anything_runs(
    pattern: str, here: Path
) -> None:
    job = encamp.Job("job", to="out")
    job.add("task", "false", on_failure={pattern: "failed"})
    with pytest.raises(UnsafeTarget):
        job.run(slots=1)
    assert not Path("out").exists()


def test_two_tasks_with_same_on_failure_name_are_refused_before_run(
    here: Path,
) -> None:
    job = encamp.Job("job", to="out")
    for name in ("one", "two"):
        job.add(name, "false", on_failure={"part.txt": "failed"})
    with pytest.raises(OutputConflict, match="task one and task two"):
        job.run(slots=1)


def test_on_failure_name_equal_to_other_tasks_output_is_refused(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("good", "touch part.txt", outputs={"part.txt": "same"})
    job.add("bad", "false", on_failure={"part.txt": "same"})
    with pytest.raises(OutputConflict, match="task good and task bad"):
        job.run(slots=1)


def test_a_task_may_leave_under_the_names_of_its_own_outputs(here: Path) -> None:
    report = run_one(
        encamp.call(half_then, "raise"), outputs={"part.txt": "x"}, on_failure={"part.txt": "x"}
    )
    assert report.state == "failed"
    assert results() == {"x/part.txt": "half\n"}


def test_rescued_file_never_replaces_other_tasks_output(here: Path) -> None:
    """Found out only when it is there: patterns say too little beforehand."""
    job = encamp.Job("job", to="out")
    job.add("first", encamp.call(half_then, "kill"), on_failure={"*.txt": "same"})
    job.add("good", encamp.call(write, "part.txt", "good"), outputs={"*.txt": "same"})
    job.add("last", encamp.call(half_then, "raise"), on_failure={"*.txt": "same"}, after="good")
    report = job.run(slots=1, check=False)
    assert report["good"].state == "done"
    assert report["last"].rescued == []
    assert results() == {"same/part.txt": "good"}


def test_next_run_removes_staged_rescues_of_killed_run(here: Path) -> None:
    """Its temporary files are found in the folders that on_failure names, too, and among logs."""
    job = encamp.Job("job", to="out")
    job.add("task", encamp.call(half_then, "raise"), on_failure=LEAVE)
    job.run(slots=1, check=False)
    (Path("out/job.job") / "running-0123456789ab").write_text("{}")
    Path("out/failed/.encamp-0123456789ab-rescued.0-0").write_text("half of it")
    Path("out/job.job/logs/.encamp-0123456789ab-log.0-0").write_text("half of it")
    job.run(slots=1, check=False)
    assert results() == {"failed/part.txt": "half\n"}


def test_rescued_file_is_in_manifest_and_report(here: Path) -> None:
    run_one(encamp.call(half_then, "raise"))
    assert b"(failed/part.txt)" in Path("out/job.job/MANIFEST").read_bytes()
    assert "failed/part.txt" in Path("out/job.job/report.json").read_text()


def test_a_changed_wish_is_no_reason_to_run_again(here: Path) -> None:
    """The result of a task that is done does not depend on what it would have left."""
    assert run_one("true").state == "done"
    assert run_one("true", on_failure={"other": "failed"}).state == "up to date"

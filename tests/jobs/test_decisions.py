"""Decisions of a run for scripted outcomes of its attempts."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from scripted import GOOD, Scripted

import encamp
from encamp.attempt_facts import Span, Where
from encamp.errors import (
    BadDestination,
    CommandNotFound,
    DiskFull,
    EngineFailed,
    MissingOutput,
    StepFailed,
    TaskLost,
    TimeLimitExceeded,
    UnusableInput,
)
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record
from encamp.jobs.progress_interface import Silent
from encamp.jobs.run import run_loop as run_module
from encamp.jobs.run.attempt_outcomes import AttemptOutcomes
from encamp.jobs.run.retries import MOST_LOSSES
from encamp.jobs.run.run_loop import WINDOW
from encamp.jobs.worker.supervise_attempt import Abandoned
from encamp.jobs.worker.work_and_outcome import Outcome, Work
from encamp.reports import AttemptReport, TaskReport
from encamp.storage.disk.temporary_names import Written
from encamp.storage.outputs import deliveries
from encamp.storage.outputs.stage import Staged
from encamp.testing.waiting import until
from encamp.wire.pickling import NotImportable


def run(job: encamp.Job, pool: Executor) -> encamp.JobReport:
    return job.run(pool, check=False)


def job_of(*tasks: str, **options: Any) -> encamp.Job:
    job = encamp.Job("job", to="out", **options)
    for name in tasks:
        job.add(name, "true")
    return job


def failed(error: BaseException, **facts: Any) -> Outcome:
    return Outcome(error=error, **facts)


STEP = failed(StepFailed("a", "true", 1, "ended with exit status 1"))
LIMIT = failed(TimeLimitExceeded("a", None, 1.0))
CRASH = failed(TaskLost("a", "here", -9))
LOST = TaskLost("a", "node1", None, "its host is gone")
MISSING = failed(MissingOutput("a", "x", ()))
NO_COMMAND = failed(CommandNotFound("a", "x", "here"))
NO_INPUT = failed(UnusableInput("x", "it is gone"))

ENDS: dict[str, tuple[list[Any], int, int]] = {
    # what comes back, retries, attempts until the end
    "well": ([GOOD], 2, 1),
    "step": ([STEP], 2, 3),
    "step, no retries": ([STEP], 0, 1),
    "limit": ([LIMIT], 1, 2),
    "crash": ([CRASH], 1, 2),
    "missing output": ([MISSING], 2, 3),
    "command not found": ([NO_COMMAND], 2, 1),
    "input": ([NO_INPUT], 2, 1),
    "host lost": ([LOST], 0, 1 + MOST_LOSSES),
    "host lost, retries": ([LOST], 2, 1 + MOST_LOSSES + 2),
    "its supervisor crashes": ([TaskLost("a", "node1", -9, "")], 1, 2),
    "loses and fails": ([LOST, STEP, LOST, STEP, GOOD], 1, 4),
    "well in the end": ([STEP, LIMIT, GOOD], 2, 3),
    "some error of the executor's": ([RuntimeError("broken")], 1, 2),
}


@pytest.mark.parametrize("what", ENDS)
def test_a_task_has_as_many_attempts_as_it_may_and_no_more(here: Path, what: str) -> None:
    outcomes, retries, count = ENDS[what]
    pool = Scripted({"a": list(outcomes)})
    report = run(job_of("a", retries=retries), pool)["a"]
    assert pool.numbers("a") == list(range(1, count + 1))
    assert [attempt.number for attempt in report.attempts] == pool.numbers("a")
    good = what in ("well", "well in the end")
    assert report.state == ("done" if good else "failed")
    journal = Journal(Path("out/job.job"))
    journal.read()
    assert set(journal.done) == ({"a"} if good else set())
    assert journal.attempts == ({} if good else {"a": count})


def test_attempt_count_continues_across_runs_and_resets_when_done(here: Path) -> None:
    job = job_of("a", retries=1)
    numbers = []
    for outcomes in ([STEP], [STEP, GOOD], [GOOD]):
        pool = Scripted({"a": list(outcomes)})
        job.run(pool, check=False, force=True)
        numbers.append(pool.numbers("a"))
    assert numbers == [[1, 2], [3, 4], [1]]


def test_a_module_that_a_worker_lacks_is_named_and_what_to_do(here: Path) -> None:
    lacking = Outcome(error=NotImportable("not_there"), log_tail="tail")
    report = run(job_of("a"), Scripted({"a": [lacking]}))["a"]
    assert report.state == "failed"
    assert "the worker cannot import 'not_there'; install it there" in report.why
    assert (report.attempts[0].error_type, report.log_tail) == ("StepFailed", "tail")


def test_sending_missing_module_uses_no_attempt(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("sent_along.py").write_text("def step():\n    pass\n")
    monkeypatch.syspath_prepend(here)
    job = encamp.Job("job", to="out", retries=1)
    job.add("a", encamp.call(importlib.import_module("sent_along").step))
    pool = Scripted({"a": [failed(NotImportable("sent_along")), STEP, GOOD]})
    report = run(job, pool)["a"]
    assert report.state == "done"
    assert pool.numbers("a") == [1, 1, 2]
    assert [attempt.number for attempt in report.attempts] == [1, 2]


def test_each_attempt_says_all_that_came_of_it(here: Path) -> None:
    good = Outcome(
        where=Where("node", "worker", 7),
        phases=[Span("job prephase", 1.0, 2.0), Span("true", 3.0, 4.0)],
        bytes_mirrored=11,
        files_mirrored=12,
        bytes_shared=13,
        cpu_seconds=14.5,
        peak_memory=15,
    )
    bad = replace(good, where=Where("other", "w", 8), bytes_mirrored=21, error=STEP.error)
    pool = Scripted({"a": [bad, replace(good, log_tail="tail", kept="node:/kept")]})
    report = run(job_of("a", retries=1), pool)["a"]
    rest = {name: getattr(good, name) for name in ("phases", "files_mirrored", "bytes_shared")}
    rest |= {name: getattr(good, name) for name in ("cpu_seconds", "peak_memory")}
    submitted = [attempt.submitted for attempt in report.attempts]
    assert 0 < submitted[0] < submitted[1]
    assert report.attempts == [
        AttemptReport(
            1,
            bad.where,
            submitted[0],
            bytes_mirrored=21,
            error=str(bad.error).removeprefix("task a: "),
            error_type="StepFailed",
            **rest,
        ),
        AttemptReport(2, good.where, submitted[1], bytes_mirrored=11, **rest),
    ]
    assert (report.log_tail, report.kept) == ("tail", "node:/kept")
    assert report.why == "it has not been done before"


FULL = failed(DiskFull("/local", 100, 10))


def test_task_on_full_disk_waits_without_using_an_attempt(
    here: Path,
) -> None:
    order: list[str] = []
    pool = Scripted({"a": [FULL, STEP, GOOD]}, held=9, quick="a")

    class Noting(Silent):
        def submitted(self, task: str, attempt: int) -> None:
            order.append(f"{task} {attempt}")
            if len(order) == 3:  # "a" finds no room; a moment later "b" ends, and "c" runs on
                threading.Timer(0.2, pool.release).start()

        def ended(self, task: TaskReport) -> None:
            order.append(task.name)
            if task.name == "a":
                pool.release()

    report = job_of("a", "b", "c", retries=1).run(pool, check=False, progress=Noting())
    assert order == ["a 1", "b 1", "c 1", "b", "a 1", "a 2", "a", "c"]
    assert report["a"].state == "done"
    assert [attempt.number for attempt in report["a"].attempts] == [1, 2]


def test_lone_task_fails_on_full_disk(here: Path) -> None:
    pool = Scripted({"a": [FULL]})
    report = run(job_of("a", retries=1), pool)["a"]
    assert report.state == "failed"
    assert pool.numbers("a") == [1, 2]
    assert "is full" in report.why


@pytest.mark.parametrize(("workers", "most"), [(None, WINDOW), (300, 1200)])
def test_an_executor_has_a_window_of_tasks_in_hand(
    here: Path, workers: int | None, most: int
) -> None:
    pool = Scripted(held=10**9)
    pool._max_workers = workers  # type: ignore[attr-defined]
    count = most + 20

    def release() -> None:
        until(lambda: len(pool.works) >= most)
        time.sleep(0.1)  # in which no more should come
        pool.held = 1
        pool.release(count)

    thread = threading.Thread(target=release)
    thread.start()
    report = run(job_of(*map(str, range(count))), pool)
    thread.join()
    assert report.count("done") == count
    assert pool.most == most


def test_failure_blocks_only_dependents(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("a", "true")
    job.add("b", "true", after="a")
    job.add("c", "true", after=["d", "b", "f"])
    job.add("d", "true")
    job.add("e", "true", after="d")
    job.add("f", "true", after="a")
    pool = Scripted({"a": [STEP]})
    report = run(job, pool)
    assert {t.name: t.state for t in report.tasks} == {
        "a": "failed",
        "b": "blocked",
        "c": "blocked",
        "d": "done",
        "e": "done",
        "f": "blocked",
    }
    assert report["b"].why == "it waits for a, which failed"
    assert report["c"].why == "it waits for b, which failed"
    assert {work.task for work in pool.works} == {"a", "d", "e"}


def _staged(work: Work, name: str, *, size: int = 1) -> Staged:
    """A file that a task has brought to its destination."""
    part = Path("out").absolute() / f".encamp-{work.token}-{work.task}-{work.attempt}-{name}"
    return _staged_at(part, part.with_name(name), size)


def _staged_at(part: Path, final: Path, size: int = 1) -> Staged:
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"x")
    written = Written.of(part.lstat())
    return Staged(final.name, str(part), str(final), size, "00", written=written)


def _hidden() -> list[str]:
    return [path.name for path in Path("out").rglob(".encamp-*")]


@pytest.mark.parametrize("error", [STEP.error, LIMIT.error, NO_COMMAND.error])
def test_staged_files_of_failed_attempt_are_removed(here: Path, error: Any) -> None:
    def bad(work: Work) -> Outcome:
        assert _hidden() == []
        return Outcome(error=error, staged=[_staged(work, "x"), _staged(work, "y")])

    report = run(job_of("a", retries=1), Scripted({"a": [bad]}))
    assert report["a"].state == "failed"
    assert _hidden() == []
    assert not Path("out/x").exists()


def test_only_last_attempt_publishes_on_failure_files(here: Path) -> None:
    def bad(work: Work) -> Outcome:
        assert _hidden() == []
        return Outcome(error=STEP.error, rescued=[_staged(work, f"left-{work.attempt}")])

    job = encamp.Job("job", to="out", retries=2)
    job.add("a", "true", on_failure="left-*")
    report = run(job, Scripted({"a": [bad]}))["a"]
    assert [Path(one.path).name for one in report.rescued] == ["left-3"]
    assert sorted(p.name for p in Path("out").iterdir()) == ["job.job", "left-3"]


def test_files_of_attempt_without_space_are_removed_before_retry(here: Path) -> None:
    def full(work: Work) -> Outcome:
        return Outcome(error=FULL.error, rescued=[_staged(work, "left")])

    def good(_: Work) -> Outcome:
        assert _hidden() == []
        return GOOD

    job = encamp.Job("job", to="out")
    job.add("a", "true", on_failure="left")
    job.add("b", "true")
    pool = Scripted({"a": [full, good]})
    assert run(job, pool).count("done") == 2
    assert pool.numbers("a") == [1, 1]
    assert _hidden() == []


def test_a_log_is_published_of_each_try(here: Path) -> None:
    def tried(error: Any) -> Callable[[Work], Outcome]:
        def outcome(work: Work) -> Outcome:
            name = f"a.{work.attempt}.log"
            logs = Path("out/job.job/logs").absolute()
            part = logs / f".encamp-{work.token}-log-{work.attempt}"
            return Outcome(error=error, log=_staged_at(part, logs / name))

        return outcome

    pool = Scripted({"a": [tried(STEP.error), tried(None)]})
    report = run(job_of("a", retries=1), pool)["a"]
    assert report.log == "logs/a.2.log"
    assert sorted(p.name for p in Path("out/job.job/logs").iterdir()) == ["a.1.log", "a.2.log"]


def test_outputs_that_cannot_be_published_fail_their_task_and_go(here: Path) -> None:
    def cut(work: Work) -> Outcome:
        return Outcome(staged=[_staged(work, "good"), _staged(work, "short", size=2)])

    job = encamp.Job("job", to="out", retries=1)
    job.add("a", "true", outputs=["good", "short"])
    report = run(job, Scripted({"a": [cut]}))["a"]
    assert report.state == "failed"
    assert "was changed" in report.why
    assert {attempt.error_type for attempt in report.attempts} == {BadDestination.__name__}
    assert sorted(p.name for p in Path("out").iterdir()) == ["job.job"]


def test_a_folder_whose_names_cannot_be_flushed_fails_only_the_tasks_that_wrote_there(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = deliveries.flush_folders

    def flushed(folders: Iterable[Path]) -> None:
        folders = list(folders)
        for folder in folders:
            if folder.name == "bad":
                raise BadDestination(str(folder), "its new files may be lost in a power cut")
        flush(folders)

    monkeypatch.setattr(deliveries, "flush_folders", flushed)
    job = encamp.Job("job", to="out")
    for name in ("good", "bad"):
        job.add(name, "true", outputs={"x": name})
    staged = {name: [partial(_well, name=name)] for name in ("good", "bad")}
    report = run(job, Scripted(staged))
    assert (report["good"].state, report["bad"].state) == ("done", "failed")
    assert "power cut" in str(report["bad"].why)


def test_nothing_gets_its_name_unless_the_disk_has_the_journal_s_record_of_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = deliveries.flush_copies

    def flushed(copies: Any, others: Iterable[Path]) -> dict[Any, OSError]:
        refused = {str(file): OSError(errno.EIO, "Input/output error") for file in others}
        return {**flush(copies, others), **refused}

    monkeypatch.setattr(deliveries, "flush_copies", flushed)
    job = encamp.Job("job", to="out")
    job.add("a", "true", outputs={"x": "a"})
    report = run(job, Scripted({"a": [partial(_well, name="a")]}))
    assert report["a"].state == "failed"
    assert "input/output error" in report["a"].why
    assert list(Path("out/a").iterdir()) == []


def test_nothing_gets_its_name_if_the_journal_cannot_record_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Journal.write

    def full(journal: Journal, *records: Record) -> list[bytes]:
        if any(record.event == "publishing" for record in records):
            raise DiskFull(str(journal.file), 100, 10)
        return write(journal, *records)

    monkeypatch.setattr(Journal, "write", full)
    job = encamp.Job("job", to="out")
    job.add("a", "true", outputs={"x": "a"})
    report = run(job, Scripted({"a": [partial(_well, name="a")]}))
    assert report["a"].state == "failed"
    assert "is full" in report["a"].why
    assert list(Path("out/a").iterdir()) == []


def test_rescued_file_is_journaled_before_and_synced_after_renaming(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut in between leaves no file of which nobody knows whose it is."""
    order: list[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            order.append(name)
            return function(*args, **options)

        return noted

    flush = deliveries.flush_copies

    def flushed(copies: Any, others: Iterable[Path]) -> dict[Any, OSError]:
        order.extend(file.name for file in others)
        return flush(copies, others)

    monkeypatch.setattr(deliveries, "flush_copies", flushed)
    for name in ("publish", "flush_folders"):
        function = noting(name, getattr(deliveries, name))
        monkeypatch.setattr(deliveries, name, function)
    job = encamp.Job("job", to="out")
    job.add("a", "true", on_failure="left")

    def bad(work: Work) -> Outcome:
        return Outcome(error=STEP.error, rescued=[_staged(work, "left")])

    assert len(run(job, Scripted({"a": [bad]}))["a"].rescued) == 1
    assert order[:3] == ["journal.jsonl", "publish", "flush_folders"]


def test_a_lost_attempt_began_when_its_slot_was_free() -> None:
    times = iter([5.0, 9.0])
    clock: Any = SimpleNamespace(now=lambda: next(times))
    outcomes = AttemptOutcomes(cast(Any, None), clock)
    outcomes.note(Where("node1", "slot-2", 7))
    lost: Any = Future()
    lost.host, lost.slot = "node1", 2
    lost.set_exception(LOST)
    outcome = outcomes.of("a", lost, 1.0, stopping=False)
    assert outcome.phases == [Span("lost", 5.0, 4.0)]
    assert outcome.where == Where("node1", "slot-2", 0)


def test_a_log_is_flushed_before_it_gets_its_name(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushed = deliveries.flush_copies, []

    def noted(copies: Iterable[Staged], others: Iterable[Path]) -> dict[Any, OSError]:
        copies = list(copies)
        flushed.extend(Path(str(one.final)).name for one in copies)
        return flush(copies, others)

    def outcome(work: Work) -> Outcome:
        logs = Path("out/job.job/logs").absolute()
        part = logs / f".encamp-{work.token}-log"
        log = replace(_staged_at(part, logs / "a.1.log"), flushed=False)
        return Outcome(error=STEP.error, log=log)

    monkeypatch.setattr(deliveries, "flush_copies", noted)
    assert run(job_of("a"), Scripted({"a": [outcome]}))["a"].log == "logs/a.1.log"
    assert flushed == ["a.1.log"]


def _well(work: Work, *, name: str) -> Outcome:
    folder = Path("out").absolute() / name
    part = folder / f".encamp-{work.token}-{work.task}"
    return Outcome(staged=[_staged_at(part, folder / "x")])


def test_job_folder_has_running_file_only_during_run(here: Path) -> None:
    def seen(work: Work) -> Outcome:
        (file,) = Path("out/job.job").glob("running-*")
        facts.append(json.loads(file.read_text()))
        assert file.name == f"running-{work.token}"
        return GOOD

    facts: list[dict[str, Any]] = []
    run(job_of("a", "b"), Scripted({"a": [seen], "b": [seen]}))
    assert len(facts) == 2
    assert list(Path("out/job.job").glob("running-*")) == []
    with pytest.raises(EngineFailed):
        run(job_of("c"), Broken())
    assert list(Path("out/job.job").glob("running-*")) == []


@pytest.mark.parametrize("ends", [True, False])
def test_late_files_of_stopped_run_are_removed_by_next(
    here: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """A second Ctrl-C ends a run before its tasks have ended, and these may still write."""

    def interrupted(work: Work) -> Outcome:
        works.append(work)
        os.kill(os.getpid(), signal.SIGINT)
        if not ends:
            os.kill(os.getpid(), signal.SIGINT)
        return Outcome(error=Abandoned("the run ends"))

    def job() -> encamp.Job:
        one = encamp.Job("job", to="out")
        one.add("a", "true", outputs=encamp.Output("x", required=False))
        return one

    works: list[Work] = []
    monkeypatch.setattr(run_module, "JOB_ENDS", 0.1)
    with pytest.raises(KeyboardInterrupt):
        run(job(), Scripted({"a": [interrupted]}))
    late = Path("out") / f".encamp-{works[0].token}.late"
    late.touch()
    left = [file.name for file in Path("out/job.job").glob("*-*")]
    assert left == ([] if ends else [f"stopped-{works[0].token}"])
    run(job(), Scripted({}))
    assert late.exists() == ends
    assert list(Path("out/job.job").glob("*-*")) == []


def test_leftovers_below_home_are_removed_by_next_run(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here / "home"))
    left = here / "home/far/.encamp-0123456789ab.0-0"
    lease = here / "out/job.job/running-0123456789ab"
    for file in (left, lease):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    job = encamp.Job("job", to="out")
    job.add("a", "true", outputs=encamp.Output("x", "~/far", required=False))
    assert run(job, Scripted()).ok
    assert not left.exists()
    assert not lease.exists()


class Broken(Executor):
    """Takes nothing any more."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise EngineFailed("pvm", "all of its hosts are lost")


def test_submit_without_future_is_reported(here: Path) -> None:
    class Odd(Scripted):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            super().submit(fn, *args, **kwargs)

    with pytest.raises(EngineFailed, match=r"submit\(\) returned None, not a concurrent.futures"):
        run(job_of("a", "b"), Odd())


def test_finished_results_of_broken_executor_are_used(here: Path) -> None:
    class Breaking(Scripted):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if len(self.works) == 3:
                for _ in range(3):
                    self.release()
                raise EngineFailed("pvm", "all of its hosts are lost")
            return super().submit(fn, *args, **kwargs)

    job = job_of(*"abcdef")
    with pytest.raises(EngineFailed):
        run(job, Breaking(held=10))
    assert Counter(task.state for task in run(job, Scripted()).tasks) == {
        "up to date": 3,
        "done": 3,
    }

"""Runs of some tasks of a job, and runs that stop when too many tasks have failed."""

from __future__ import annotations

import re
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from scripted import GOOD, Scripted

import encamp
from encamp.errors import BadJob, StepFailed
from encamp.jobs.journal.journal import Journal
from encamp.jobs.run.submitted_attempts import Submissions
from encamp.jobs.worker.work_and_outcome import Outcome, Work
from encamp.reports import JobFailed

BAD = Outcome(error=StepFailed("a", "true", 1, "ended with exit status 1"))


def chain() -> encamp.Job:
    """Parts 1 to 3, their sum, and a task of its own."""
    job = encamp.Job("job", to="out")
    for number in (1, 2, 3):
        line = f"echo {number} > part-{number}"
        job.add(f"part-{number}", encamp.command(line, shell=True), outputs=f"part-{number}")
    parts = encamp.outputs_of("part-[12]")
    step = encamp.command("cat part-? > sum", shell=True)
    job.add("sum", step, mirror=parts, outputs="sum")
    job.add("other", encamp.command("touch other", shell=True), outputs="other")
    return job


def states(report: encamp.JobReport) -> dict[str, str]:
    return {task.name: task.state for task in report.tasks}


def test_only_runs_tasks_by_name_or_pattern_with_what_they_need(here: Path) -> None:
    assert states(chain().run(only="other", slots=2)) == {"other": "done"}
    report = chain().run(only=["sum"], slots=2)
    assert states(report) == {"part-1": "done", "part-2": "done", "sum": "done"}
    assert report.ok
    assert report.not_selected == 2
    report = chain().run(only="part-*", slots=2)
    assert states(report) == {"part-1": "up to date", "part-2": "up to date", "part-3": "done"}


def test_unselected_tasks_keep_results_and_manifest(here: Path) -> None:
    job = chain()
    job.run(slots=2)
    manifest = Path("out/job.job/MANIFEST").read_text()
    chain().run(only="part-3", force=True, slots=2)
    assert Path("out/job.job/MANIFEST").read_text() == manifest
    assert len(manifest.splitlines()) == 5
    journal = Journal(Path("out/job.job"))
    journal.read()
    assert journal.left == set()
    assert chain().run(slots=2).count("up to date") == 5


def test_a_name_that_an_unselected_task_has_published_is_not_taken(here: Path) -> None:
    job = chain()
    job.run(slots=2)
    again = chain()
    again.add("thief", encamp.command("touch other", shell=True), outputs="o*")
    report = again.run(only="thief", check=False, slots=2)
    assert report["thief"].state == "failed"
    assert "task other" in report["thief"].why


def test_output_matched_by_pattern_of_unselected_task_is_not_overwritten(here: Path) -> None:
    """What a pattern matches is known only from the journal."""

    def job(second: str) -> encamp.Job:
        job = encamp.Job("job", to="out")
        job.add("a", encamp.command("echo a > x.txt", shell=True), outputs="*.txt")
        job.add("b", encamp.command(f"echo b > {second}.txt", shell=True), outputs="*.txt")
        return job

    job("y").run(slots=2)
    report = job("x").run(only="b", check=False, slots=1)
    assert report["b"].state == "failed"
    assert "task a" in report["b"].why
    assert Path("out/x.txt").read_text() == "a\n"


def test_name_dropped_by_unselected_task_is_free(here: Path) -> None:
    def job(first: str, second: str) -> encamp.Job:
        job = encamp.Job("job", to="out")
        for name, output in (("a", first), ("b", second)):
            step = encamp.command(f"echo {name} > {output}", shell=True)
            job.add(name, step, outputs=output)
        return job

    job("x", "y").run(slots=1)
    report = job("z", "x").run(slots=1, only="b", check=False)
    assert (report["b"].state, report["b"].why) == ("done", "a command line changed")
    assert Path("out/x").read_text() == "b\n"


def test_only_names_a_task_that_is_there(here: Path) -> None:
    with pytest.raises(BadJob, match="no task of this job is called 'smu'; did you mean 'sum'"):
        chain().run(only=["part-1", "smu"])
    assert not Path("out").exists()


def test_a_dry_run_tells_of_the_selected_tasks_only(here: Path) -> None:
    report = chain().run(only="sum", dry_run=True)
    assert states(report) == {"part-1": "to do", "part-2": "to do", "sum": "to do"}
    assert report.not_selected == 2


def failing(*bad: str) -> Scripted:
    return Scripted({name: [BAD] for name in bad})


def plain(*names: str, **options: Any) -> encamp.Job:
    job = encamp.Job("job", to="out", **options)
    for name in names:
        job.add(name, "true")
    return job


def test_failed_runs_what_failed_and_was_not_done_since(here: Path) -> None:
    plain(*"abcd").run(failing("b", "d"), check=False)
    report = plain(*"abcd").run(failing("d"), failed=True, check=False)
    assert states(report) == {"b": "done", "d": "failed"}
    assert report["b"].why == "it failed in its last run"
    dry = plain(*"abcd").run(dry_run=True)
    assert dry["d"].why == "it failed in its last run"
    assert states(plain(*"abcd").run(failing(), only="c", force=True)) == {"c": "done"}
    assert states(plain(*"abcd").run(failing(), failed=True)) == {"d": "done"}


def test_only_and_failed_select_intersection(here: Path) -> None:
    plain(*"abcd").run(failing("b", "d"), check=False)
    report = plain(*"abcd").run(failing(), failed=True, only=["a", "b"])
    assert states(report) == {"b": "done"}


def test_a_task_whose_input_was_missing_has_failed(here: Path) -> None:
    job = plain("a")
    job.add("b", "true", mirror="nowhere.txt", after="a")
    assert job.run(failing(), check=False)["b"].state == "failed"
    Path("nowhere.txt").write_text("here now")
    assert states(job.run(failing(), failed=True)) == {"a": "up to date", "b": "done"}


def test_where_nothing_failed_there_is_nothing_to_run(here: Path) -> None:
    plain("a").run(failing())
    before = Path("out/job.job/report.json").read_bytes()
    pool = failing()
    report = plain("a").run(pool, failed=True)
    assert (report.tasks, report.not_selected) == ([], 1)
    assert report.warnings == ["no task failed in its last run"]
    assert pool.works == []
    assert Path("out/job.job/report.json").read_bytes() == before


class Held(Executor):
    """Gives every future to the test, as an executor does that has one worker: the first runs."""

    def __init__(self) -> None:
        self.futures: dict[str, Future[Any]] = {}

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        (work,) = args
        assert isinstance(work, Work)
        future = self.futures[work.task] = Future()
        if len(self.futures) == 3:
            self.futures["b"].set_running_or_notify_cancel()
            self.futures["a"].set_result(BAD)
        return future


def test_after_enough_failures_what_has_begun_ends_and_nothing_else_begins(here: Path) -> None:
    pool = Held()

    class Watch:
        def began(self, *facts: Any) -> None: ...
        def submitted(self, *facts: Any) -> None: ...
        def retried(self, *facts: Any) -> None: ...
        def finished(self, *facts: Any) -> None: ...

        def ended(self, task: encamp.TaskReport) -> None:
            if task.name == "a":
                pool.futures["b"].set_result(GOOD)

    report = plain(*"abc", retries=0).run(pool, max_failures=1, check=False, progress=Watch())
    assert states(report) == {"a": "failed", "b": "done", "c": "waiting"}
    assert pool.futures["c"].cancelled()
    assert report.interrupted
    assert re.search("no more tasks were started after 1 task had failed", report.warnings[0])


def test_a_failure_is_not_tried_again_when_there_were_enough(here: Path) -> None:
    job = plain("a")
    job.add("b", "true", retries=3)
    pool = Scripted({"a": [BAD], "b": [BAD]}, held=2)
    report = job.run(pool, max_failures=1, check=False)
    assert states(report)["a"] == "failed"
    assert pool.numbers("b") == [1]


def test_fewer_failures_than_the_limit_stop_nothing(here: Path) -> None:
    report = plain(*"abcd").run(failing("a", "b"), max_failures=3, check=False)
    assert sorted(states(report).values()) == ["done", "done", "failed", "failed"]
    assert not report.interrupted


def test_run_stopped_by_max_failures_continues_in_next(here: Path) -> None:
    job = encamp.Job("job", to="out")
    for number in range(40):
        job.add(f"t{number}", f"test {number} -gt 5")
    with pytest.raises(JobFailed) as raised, pytest.warns(UserWarning, match="no more tasks"):
        job.run(slots=2, max_failures=3)
    report = raised.value.report
    assert 3 <= report.count("failed") <= 3 + 2
    assert report.count("waiting") > 0
    again = job.run(slots=2, check=False)
    assert (again.count("failed"), again.count("waiting")) == (6, 0)


def test_failures_are_counted_before_next_submission(here: Path) -> None:
    report = plain(*"abcdefgh").run(failing(*"abcdefgh"), max_failures=3, check=False)
    assert (report.count("failed"), report.count("waiting")) == (3, 5)


class Two(Executor):
    """An executor of two workers, whose tasks fail when ``held`` of them are in hand."""

    _max_workers = 2

    def __init__(self, held: int) -> None:
        self.held, self.futures = held, list[Future[Outcome]]()

    def submit(self, function: Any, /, work: Any) -> Future[Outcome]:  # type: ignore[override]
        self.futures.append(Future())
        if len(self.futures) == self.held:
            for future in self.futures:
                future.set_running_or_notify_cancel()
                future.set_result(BAD)
        return self.futures[-1]


def test_few_tasks_are_handed_over_ahead_where_failures_are_limited(here: Path) -> None:
    pool = Two(held=2 + 3)
    report = plain(*"abcdefgh", retries=0).run(pool, max_failures=3, check=False)
    assert len(pool.futures) == 2 + 3
    assert report.count("failed") == 2 + 3


def test_fewer_tasks_are_handed_over_ahead_after_a_failure(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Two(held=1)  # the first one fails at once
    real = Submissions.arrivals

    def arrivals(self: Submissions, *args: Any) -> Any:
        for future in pool.futures:  # no more are handed over before one ends
            if not future.done():
                future.set_running_or_notify_cancel()
                future.set_result(BAD)
        return real(self, *args)

    monkeypatch.setattr(Submissions, "arrivals", arrivals)
    report = plain(*"abcdefgh", retries=0).run(pool, max_failures=3, check=False)
    assert len(pool.futures) == report.count("failed") == 1 + (2 + 3 - 1)


def test_more_tasks_are_handed_over_when_the_executor_has_grown(here: Path) -> None:
    class Growing(Two):
        def submit(self, function: Any, /, work: Any) -> Future[Outcome]:  # type: ignore[override]
            self._max_workers = 4
            return super().submit(function, work)

    pool = Growing(held=4 + 1)
    report = plain(*"abcdefgh", retries=0).run(pool, max_failures=1, check=False)
    assert len(pool.futures) == report.count("failed") == 4 + 1


@pytest.mark.parametrize("most", [0, -1, 1.5, True])
def test_the_limit_of_failures_is_a_whole_number(here: Path, most: Any) -> None:
    with pytest.raises(BadJob, match="max_failures"):
        plain("a").run(failing(), max_failures=most)


def test_keep_accepts_three_values(here: Path) -> None:
    job = encamp.Job("kept", to="results")
    job.add("one", "true")
    with pytest.raises(BadJob, match="keep='sometimes': is not known; use 'never', 'failed' or"):
        job.run(keep="sometimes")  # type: ignore[arg-type]
    assert not Path("results").exists()

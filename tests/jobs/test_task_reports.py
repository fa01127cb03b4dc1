"""The compact reports of very many tasks equal a list of them."""

from __future__ import annotations

import copy
import gc
import pickle
import shutil
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scripted import Scripted

import encamp
from encamp.attempt_facts import Published, Span, Where
from encamp.errors import StepFailed
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.journal_file import JournalFile
from encamp.jobs.journal.record import Record, decoded
from encamp.jobs.journal.records_by_task import RecordsByTask
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.progress_interface import Silent
from encamp.jobs.report import compressed_reports as kept
from encamp.jobs.report.compressed_reports import CompressedReports
from encamp.jobs.report.read_report import read_report
from encamp.jobs.report.write_report import write_report
from encamp.jobs.worker.work_and_outcome import Outcome
from encamp.reports import AttemptReport, InputFile, JobReport, TaskReport, TaskReports
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.task_values import as_json

ODD = "bad\udcff\n\x00hex:zz"
VALUES: list[Any] = [None, 1, True, 2.5, "é", ODD, float("nan"), 2**70, (1, 2), [1], {"a": (1,)}]


def _task(number: int, state: Any = "done", **facts: Any) -> TaskReport:
    phases = [Span("task prephase", 1.5 + number, 0.25), Span(f"step {number}", 2.0, 1e-9)]
    where = Where("host", f"slot-{number % 3}", number) if number % 5 else None
    attempts = [AttemptReport(n, where, 1.0, phases, number, 2, 3, 0.1) for n in range(number % 3)]
    outputs = [Published(f"/out/{number}", 1, 2**61, "00", kind="file")] if number % 2 else []
    return TaskReport(f"t{number}", state, attempts, outputs, "why", log_tail="x\n", **facts)


def _written(folder: Path, tasks: Iterable[TaskReport]) -> RecordsByTask:
    """The records of these tasks in a journal, as done."""
    journal = Journal(folder)
    with journal.writing():
        for task in tasks:
            task = replace(task, state="done", value=as_json(task.value))
            journal.write(Record("done", task.name, 1.0, report=task))
        return journal.done.kept()


def _both(folder: Path, count: int = 200) -> tuple[CompressedReports, list[TaskReport]]:
    """Reports of tasks that have ended in another order, some of them up to date or not at all."""
    listed = [
        replace(_task(n, value=VALUES[n % len(VALUES)]), name=f"t{n}{ODD if n % 7 == 0 else ''}")
        for n in range(count)
    ]
    records = _written(folder, listed)
    reports = CompressedReports([task.name for task in listed], records)
    for n in sorted(range(count), key=lambda n: (n % 3, n)):
        task = listed[n]
        if n % 4 == 0:
            reports.up_to_date(task.name, records.line(task.name) or b"")
            on_disk = replace(task, value=as_json(task.value))
            listed[n] = replace(on_disk, state="up to date", why="nothing changed")
        elif n % 4 == 1:
            listed[n] = replace(task, state="failed")
            reports.add(listed[n])
        elif n % 10 == 2:
            why = "the run was stopped before this task was done"
            listed[n] = TaskReport(task.name, "waiting", why=why)
        else:
            reports.add(task, records.line(task.name) or b"")
    return reports, listed


def _report(tasks: Any) -> JobReport:
    return JobReport("job", "/out", "/out/job.job", 1.0, 2.0, "here", "", "", False, tasks)


def test_compact_reports_equal_list(tmp_path: Path) -> None:
    reports, listed = _both(tmp_path)
    assert len(reports) == len(listed)
    assert repr(reports) == repr(listed)  # NaN is not equal to itself
    assert repr([reports[-1], *reports[5:70:3]]) == repr([listed[-1], *listed[5:70:3]])
    one = listed[:1]
    for alike in (copy.copy(reports), pickle.loads(pickle.dumps(reports)), (reports + one)[:-1]):
        assert type(alike) is list
        assert repr(alike) == repr(listed)
    assert repr(one + reports) == repr(one + listed)
    few, same = _both(tmp_path / "few", 6)
    assert few == same
    assert same == few
    assert few != same[1:]


def test_summaries_create_no_report_per_task(
    tmp_path: Path,
) -> None:
    reports, listed = _both(tmp_path)
    kept_small, whole = _report(reports), _report(listed)
    assert list(kept_small.states()) == list(whole.states())
    for state in ("done", "failed", "up to date", "waiting", "blocked"):
        assert kept_small.count(state) == whole.count(state)
        assert repr([*kept_small.of_state(state)]) == repr([*whole.of_state(state)])
    assert kept_small.ok is whole.ok is False
    assert repr([kept_small[task.name] for task in listed]) == repr(listed)
    with pytest.raises(KeyError):
        kept_small["no such task"]


class _Compared(str):
    """A name that counts how often it is compared with another."""

    count = 0

    def __eq__(self, other: object) -> bool:
        _Compared.count += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_page_of_new_run_is_not_quadratic_in_tasks() -> None:
    names = [_Compared(f"t{number}") for number in range(300)]
    reports = CompressedReports(names, RecordsByTask(JournalFile(TrustedFolder(Path()))))
    _Compared.count = 0
    assert {report.state for report in reports.for_disk()} == {"waiting"}
    assert _Compared.count < 10 * len(names)


def test_reports_for_a_disk_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports, listed = _both(tmp_path)
    lines: list[bytes] = []
    monkeypatch.setattr(kept, "decoded", lambda line: lines.append(line) or decoded(line))
    for_disk = reports.for_disk()
    assert [report.name for report in for_disk] == [report.name for report in for_disk]
    assert len(lines) == reports.ended < len(listed)


def test_the_same_is_written_of_them(tmp_path: Path) -> None:
    reports, listed = _both(tmp_path)
    for_disk = [replace(task, value=as_json(task.value)) for task in listed]
    write_report(_report(reports.for_disk()), tmp_path / "small")
    write_report(_report(for_disk), tmp_path / "whole")
    for name in ("trace.json", "report.html"):
        small, whole = ((tmp_path / at / name).read_bytes() for at in ("small", "whole"))
        assert small == whole
    files = (tmp_path / at / "report.json" for at in ("small", "whole"))
    small, whole = (msgspec.json.decode(file.read_bytes()) for file in files)
    assert small == whole
    read_report(tmp_path / "small/report.json")


def test_a_run_of_many_tasks_has_the_same_report_as_one_of_few(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> list[JobReport]:
        job = encamp.Job("job", to="out")
        for n in range(9):
            job.add(f"t{n}", "true", after="t1" if n == 8 else ())
        bad, odd = Outcome(error=StepFailed("t1", "step", 1, "ended")), Outcome()
        odd.value = pickle.dumps(np.arange(3))
        script = {"t1": [bad], "t2": [odd]}
        return [job.run(Scripted(script), check=False) for _ in range(2)]

    whole = run()
    monkeypatch.setattr(kept, "_FEW", 3)
    Path("out").rename("before")
    small = run()
    for one, other in zip(small, whole, strict=True):
        assert isinstance(one.tasks, TaskReports)
        assert isinstance(other.tasks, list)
        assert [(t.name, t.state, t.why, len(t.attempts)) for t in one.tasks] == [
            (t.name, t.state, t.why, len(t.attempts)) for t in other.tasks
        ]
    assert list(small[0]["t2"].value) == [0, 1, 2]


def test_a_line_with_a_report_of_nonsense_does_not_stop_the_rest(tmp_path: Path) -> None:
    records = _written(tmp_path, [_task(0)])
    reports = CompressedReports(["t0"], records)
    reports.up_to_date("t0", records.line("t0") or b"")
    file = tmp_path / "journal.jsonl"
    with file.open("r+b") as journal:
        journal.write(file.read_bytes().replace(b'"report":{"name"', b'"report":{"mean"'))
    assert reports[0] == TaskReport("t0", "up to date", why="nothing changed")


def test_a_report_of_many_tasks_outlives_what_it_is_read_from(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of its own run, whatever later ones write, and whether or not the folder is there."""
    monkeypatch.setattr(kept, "_FEW", 1)
    job = encamp.Job("job", to="out")
    for n in range(3):
        job.add(f"t{n}", "true")
    first = job.run(Scripted({}))
    job.run(Scripted({}), force=True)
    job.run(Scripted({}))
    before = [(task.state, [one.number for one in task.attempts]) for task in first.tasks]
    shutil.rmtree("out")
    after = [(task.state, [one.number for one in task.attempts]) for task in first.tasks]
    assert before == after == [("done", [1])] * 3


def test_a_report_of_many_tasks_that_failed_needs_no_journal(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removes the job's folder as the last of them ends."""

    class Removes(Silent):
        def ended(self, task: TaskReport) -> None:
            if task.name == "t2":
                shutil.rmtree("out")

    monkeypatch.setattr(kept, "_FEW", 1)
    job = encamp.Job("job", to="out")
    for n in range(3):
        job.add(f"t{n}", "false")
    script = {f"t{n}": [Outcome(error=StepFailed(f"t{n}", "step", 1, "ended"))] for n in range(3)}
    report = job.run(Scripted(script), check=False, progress=Removes())
    assert [task.state for task in report.tasks] == ["failed"] * 3


def test_user_display_receives_complete_reports(here: Path) -> None:
    class Mine(Silent):
        wants_whole_reports = True

        def ended(self, task: TaskReport) -> None:
            tries.append((task.state, len(task.attempts)))

    tries: list[tuple[str, int]] = []
    job = encamp.Job("job", to="out")
    job.add("a", "true")
    job.run(Scripted({}), progress=Mine())
    job.run(Scripted({}), progress=Mine())
    job.run(dry_run=True, progress=Mine())
    assert tries == [("done", 1), ("up to date", 1), ("up to date", 1)]


TASKS = 600


def _job(name: str = "job", tasks: int = TASKS) -> encamp.Job:
    job = encamp.Job(name, to="out")
    for n in range(tasks):
        if not Path(f"in/{n}.txt").exists():
            Path(f"in/{n}.txt").touch()
        mirror = encamp.Mirror(f"in/{n}.txt", literal=True)
        job.add(f"task-{n}", f"sort -o o{n}.txt {n}.txt", mirror=mirror, outputs={f"o{n}.txt": "."})
    return job


def test_a_task_takes_two_kilobytes_while_all_are_up_to_date(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a million of them fit into 2 GB, with a file to read and one to publish each."""
    monkeypatch.setattr(kept, "_FEW", 0)
    Path("in").mkdir()
    job = _job()
    prepared, journal = Prepared(job), Journal(job.folder)
    with journal.writing():
        for n, name in enumerate(job.tasks):
            Path(f"out/o{n}.txt").touch()
            status = Path(f"out/o{n}.txt").stat()
            made = [Published(str(here / f"out/o{n}.txt"), 0, status.st_mtime_ns, "0" * 32)]
            report = replace(_task(n), name=name, outputs=made)
            key = prepared.key(name, prepared.inputs.of(name))
            journal.write(Record("done", name, 1.0, 1, key, report))
    _job("other", 5).run(Scripted({}), check=False)  # whatever is made once
    del prepared, journal, job
    gc.collect()
    tracemalloc.start()
    job = _job()
    report = job.run(Scripted({}))
    gc.collect()
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.count("up to date") == TASKS
    assert now / TASKS < 2000


def test_a_printed_report_is_a_summary() -> None:
    tasks = [TaskReport("a", "done"), TaskReport("b\n", "up to date")]
    tasks += [TaskReport(f"f{n}", "failed", why="it broke") for n in range(12)]
    facts = ("job", "/out", "/out/job.job", 10.0, 11.5, "here", "pool", "1", False)
    report = JobReport(*facts, tasks, ["orphans"], not_selected=3)
    lines = str(report).splitlines()
    assert lines[0] == "job: 1 done, 1 up to date, 12 failed, 3 not selected in 1.5 s"
    assert lines[1:3] == ["  warning: orphans", "  failed: f0: it broke"]
    assert lines[-2:] == ["  and 2 more failed", "  report: /out/job.job/report.html"]
    assert len(lines) == 14
    assert str(JobReport(*facts, [])).startswith("job: no task in 1.5 s")


def test_the_report_of_a_dry_run_lists_what_would_run_and_why() -> None:
    tasks = [TaskReport("kept", "up to date", value={"x": 1.0})]
    tasks += [TaskReport(f"t{n}", "to do", why=f"input {n} changed") for n in range(52)]
    facts = ("job", "/out", "/out/job.job", 10.0, 10.5, "here", "dry run", "1", False)
    report = JobReport(*facts, tasks)
    head, first, *_, last = str(report).splitlines()
    assert head == "job: 52 to do, 1 up to date; nothing was run"
    assert first == "  to do: t0: input 0 changed"
    assert last == "  and 2 more to do"
    markup = report._repr_html_()
    assert "52 to do, 1 up to date; nothing was run" in markup
    assert "input 49 changed" in markup
    assert "input 50 changed" not in markup
    assert "and 2 more" in markup
    assert "report.html" not in markup
    assert "kept" not in markup


def test_a_task_in_a_notebook_shows_its_inputs_and_readable_numbers() -> None:
    phases = [Span("job prephase", 1.0, 0.25), Span("f", 1.25, 1.5)]
    attempt = AttemptReport(1, None, 0.5, phases)
    inputs = [InputFile("/in/strip5.las", "strip5.las", 3, 4)]
    value = {"mean": 107.58983041500001, "n": 3}
    task = TaskReport("t", "done", [attempt], value=value, inputs=inputs, more_inputs=2)
    assert task.seconds == 1.75
    assert TaskReport("t", "up to date").seconds == 0
    markup = task._repr_html_()
    for text in ("/in/strip5.las", "and 2 more", "107.58983", "1.8 s"):
        assert text in markup
    assert "107.589830415" not in markup

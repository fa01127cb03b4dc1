"""A job of very many tasks that do nothing: as if all were done, and then run again.

    python -m benchmarks.many FOLDER TASKS write|resume [calls|files]

Tasks are calls of a function, or command lines with an input and an output each. ``resume`` prints
the seconds, the seconds of CPU and the bytes of memory that it took, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import encamp
from benchmarks.jobs import trivial
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record
from encamp.jobs.plan.name_changed_inputs import listed
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.steps import Task
from encamp.reports import AttemptReport, Published, Span, TaskReport, Where
from encamp.storage.outputs.publish import digest_of

_PHASES = ("job prephase", "task prephase", "trivial", "task postphase")


def _calls(folder: Path, tasks: int) -> encamp.Job:
    job = encamp.Job("many", to=folder)
    for number in range(tasks):
        job.add(f"task-{number}", encamp.call(trivial, number))
    return job


def _files(folder: Path, tasks: int) -> encamp.Job:
    job = encamp.Job("many", to=folder)
    for number in range(tasks):
        job.add(
            f"task-{number}",
            f"sort -n {number}.txt -o {number}.sorted",
            mirror=str(_input(folder, number)),
            outputs={f"{number}.sorted": "sorted"},
        )
    return job


_KINDS = {"calls": _calls, "files": _files}


def _input(folder: Path, number: int) -> Path:
    return folder / "data" / f"{number}.txt"


def _make_inputs(folder: Path, tasks: int) -> None:
    (folder / "data").mkdir(parents=True)
    for number in range(tasks):
        _input(folder, number).write_text(f"{number}\n")


def _published(task: Task, job: encamp.Job) -> list[Published]:
    """The outputs of a task, which are made here."""
    published = []
    for output in task.outputs:
        file = job.to / output.to / output.pattern
        file.parent.mkdir(exist_ok=True)
        file.write_text("1\n")
        status = file.stat()
        digest = digest_of(file)
        published.append(Published(str(file), status.st_size, status.st_mtime_ns, digest))
    return published


def _write(job: encamp.Job) -> None:
    """Write the journal that a run of the job leaves, and its outputs."""
    prepared, journal = Prepared(job), Journal(job.folder)
    where = Where("host", "process 1", 1)
    with journal.writing():
        for number, (name, task) in enumerate(job.tasks.items()):
            phases = [Span(phase, time.time(), 0.001) for phase in _PHASES]
            inputs = prepared.inputs.of(name)
            report = TaskReport(
                name,
                "done",
                [AttemptReport(1, where, time.time(), phases)],
                _published(task, job),
                why="it has not been done before",
                value=None if task.outputs else number,
                inputs=listed(inputs),
            )
            key = prepared.key(name, inputs)
            journal.write(Record("done", name, time.time(), 1, key, report))


def main(folder: Path, tasks: int, what: str, kind: str = "calls") -> None:
    """See above."""
    if what == "write":
        if kind == "files":
            _make_inputs(folder, tasks)
        _write(_KINDS[kind](folder, tasks))
        return
    base = _most_memory()
    start, cpu = time.perf_counter(), time.process_time()
    job = _KINDS[kind](folder, tasks)
    report = job.run(slots=1)
    assert report.count("up to date") == tasks
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(json.dumps([seconds, cpu, _most_memory() - base]))


def _most_memory() -> int:
    """The most bytes that this process has had. (Its ``ru_maxrss`` begins with its parent's.)"""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (one for one in status if one.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])

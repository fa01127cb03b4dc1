"""A job of very many tasks that do nothing: as if all were done, and then run again.

    python -m benchmarks.many FOLDER TASKS write|resume

The second prints the seconds and the bytes of memory that it took, as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import encamp
from benchmarks.jobs import trivial
from encamp.jobs.journal import Journal, Record
from encamp.jobs.plan.prepare import Prepared
from encamp.model import AttemptReport, Span, TaskReport, Where

_PHASES = ("job prephase", "task prephase", "trivial", "task postphase")


def _job(folder: Path, tasks: int) -> encamp.Job:
    job = encamp.Job("many", to=folder)
    for number in range(tasks):
        job.add(f"task-{number}", encamp.call(trivial, number))
    return job


def _write(job: encamp.Job) -> None:
    """Write the journal that a run of the job leaves."""
    prepared, journal = Prepared(job), Journal(job.folder)
    where = Where("host", "process 1", 1)
    with journal.writing():
        for number, name in enumerate(job.tasks):
            phases = [Span(phase, time.time(), 0.001) for phase in _PHASES]
            attempt = AttemptReport(1, where, time.time(), phases)
            report = TaskReport(name, "done", [attempt], why="it was not done before", value=number)
            key = prepared.key(name, prepared.inputs.of(name))
            journal.write(Record("done", name, time.time(), 1, key, report))


def main(folder: Path, tasks: int, what: str) -> None:
    """See above."""
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    job = _job(folder, tasks)
    if what == "write":
        _write(job)
        return
    report = job.run(slots=1)
    assert report.count("up to date") == tasks
    seconds = time.perf_counter() - start
    size = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024
    print(json.dumps([seconds, size]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

"""What a job costs its controller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import encamp
from benchmarks import commands
from benchmarks.timing import Figure, amount

TASKS = 1000
SHARED_TASKS = 100
SHARED_BYTES = 100 << 20
MANY = int(os.environ.get("ENCAMP_BENCH_TASKS", "20000"))
"""Tasks of a large job; its figures are for a million, as many times as large."""
MILLION = 1_000_000
TERRAIN = Path(__file__).parents[1] / "examples/terrain/terrain.py"


def trivial(number: int) -> int:
    """A task that does next to nothing."""
    return number


def figures(folder: Path) -> Iterator[Figure]:
    """The figures of the job plane, measured in ``folder``."""
    yield from _controller_cost(folder / "trivial")
    yield _shared_input(folder / "shared")
    yield from commands.figures(folder / "commands")
    yield from _many(folder / "many")


def _controller_cost(folder: Path) -> Iterator[Figure]:
    job = encamp.Job("trivial", to=folder)
    for number in range(TASKS):
        job.add(f"task-{number}", encamp.call(trivial, number))
    with ProcessPoolExecutor(2) as pool:
        start = time.process_time()
        job.run(pool)
        cost = (time.process_time() - start) / TASKS * 1e3
        yield amount(f"controller's time for one of {TASKS} trivial tasks", cost, "ms", at_most=2)
        start = time.perf_counter()
        report = job.run(pool)
        seconds = time.perf_counter() - start
    assert report.count("up to date") == TASKS
    yield amount(f"resuming {TASKS} tasks when nothing changed", seconds, "s", at_most=1)


def _shared_input(folder: Path) -> Figure:
    folder.mkdir()
    (folder / "input.bin").write_bytes(b"\1" * SHARED_BYTES)
    job = encamp.Job("shared", to=folder / "results", mirror=str(folder / "input.bin"))
    for number in range(SHARED_TASKS):
        job.add(f"task-{number}", encamp.command("test -s input.bin"))
    report = job.run()
    brought = sum(attempt.bytes_shared for task in report.tasks for attempt in task.attempts)
    what = f"copies of a {SHARED_BYTES >> 20} MiB job input for {SHARED_TASKS} tasks"
    return amount(what, brought / SHARED_BYTES, "copies", at_most=1)


def _many(folder: Path) -> Iterator[Figure]:
    """Memory and time of a job of very many tasks that are all up to date, in a process each.

    The first time its report and table are to be written, the next time nothing is.
    """
    words = [sys.executable, "-m", "benchmarks.many", str(folder), str(MANY)]
    root = Path(__file__).parents[1]
    subprocess.run([*words, "write"], check=True, cwd=root)
    share = MILLION / MANY
    how = f"{share:g} times what {MANY} took"
    for what, most in (("and writing their report", 60), ("when nothing changed", 30)):
        done = subprocess.run([*words, "resume"], check=True, cwd=root, stdout=subprocess.PIPE)
        seconds, _, size = json.loads(done.stdout)
        yield amount(
            f"resuming a million tasks {what}", seconds * share, "s", at_most=most, how=how
        )
        yield amount("memory for that", size * share / 1e9, "GB", at_most=2, how=how)

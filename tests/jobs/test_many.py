"""Many small tasks: each runs once, at little cost to the controller, without leaks."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
from job_steps import count, counted, nothing

import encamp
from counted_calls import counted_calls
from encamp.jobs.plan.prepare import Prepared


def test_a_thousand_tasks_run_once_each_and_the_controller_does_little_for_one(here: Path) -> None:
    counter, total = str(here / "counter"), 1000
    job = encamp.Job("job", to="out")
    for number in range(total):
        job.add(f"t{number}", encamp.call(count, counter, f"t{number}"))
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        pool.submit(nothing).result()
        report, calls = counted_calls(lambda: job.run(pool))
        assert report.count("done") == total
        assert Counter(counted(counter)) == {f"t{number}": 1 for number in range(total)}
        assert calls / total < 2500
        report, calls = counted_calls(lambda: job.run(pool))
        assert report.count("up to date") == total
        assert calls / total < 500
    assert len(counted(counter)) == total


def test_runs_leak_no_descriptors_threads_or_processes(here: Path) -> None:
    def used() -> tuple[int, int, int]:
        gc.collect()
        children = len(psutil.Process().children(recursive=True))
        return len(os.listdir("/proc/self/fd")), threading.active_count(), children

    def run() -> None:
        job = encamp.Job("job", to="out")
        for number in range(6):
            job.add(f"t{number}", "false" if number == 3 else nothing, time_limit=60)
        job.run(slots=2, force=True, check=False)

    for _ in range(2):
        run()  # what first uses open for good
    before = used()
    for _ in range(5):
        run()
    assert used() == before


def test_job_inputs_are_looked_up_once_not_once_a_task(here: Path) -> None:
    Path("shared").mkdir()
    for number in range(200):
        Path("shared", f"{number}.txt").write_text("x")
    job = encamp.Job("job", to="out", mirror="shared/*.txt")
    for number in range(500):
        job.add(f"t{number}", nothing)
    _, calls = counted_calls(lambda: Prepared(job))
    assert calls < 500 * 200


def test_large_steps_are_not_all_held_in_memory(here: Path) -> None:
    job = encamp.Job("job", to="out")
    data = os.urandom(1 << 20)
    for number in range(40):
        job.add(f"t{number}", encamp.call(len, data))
    before = psutil.Process().memory_info().rss
    prepared = Prepared(job)
    assert psutil.Process().memory_info().rss - before < 20 << 20
    assert len(prepared.steps("t0")) > 1 << 20

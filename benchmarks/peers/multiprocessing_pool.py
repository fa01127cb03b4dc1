"""multiprocessing.Pool."""

from __future__ import annotations

import multiprocessing

from benchmarks.peers.rates import TASKS, WORKERS, Rates, best_map, tasks_per_second
from benchmarks.peers.work import increment

if __name__ == "__main__":
    with multiprocessing.Pool(WORKERS) as pool:

        def submit(numbers: range) -> list[int]:
            """All submitted, then all collected."""
            waiting = [pool.apply_async(increment, (number,)) for number in numbers]
            return [result.get() for result in waiting]

        def mapped(numbers: range, chunk: int) -> list[int]:
            """In chunks."""
            return pool.map(increment, numbers, chunksize=chunk)

        rates = {"submit_per_s": tasks_per_second(submit, TASKS), **best_map(mapped)}
        Rates("multiprocessing.Pool", **rates).show()

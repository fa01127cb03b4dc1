"""A worker's name is in the executor's own terms."""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from encamp.jobs.worker.worker_name import worker_name


def test_the_main_thread_a_named_thread_and_a_pools_process() -> None:
    assert threading.current_thread() is threading.main_thread()
    assert worker_name() == "main"
    with ThreadPoolExecutor(1, thread_name_prefix="slot") as threads:
        assert threads.submit(worker_name).result() == "slot_0"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert "Process" in pool.submit(worker_name).result()

"""The end of the threads that supervise slots."""

from __future__ import annotations

import pytest

from encamp.jobs.worker.supervisor_threads import Supervisors


@pytest.mark.timeout(60)
def test_supervisors_end_while_taking_cancelled_work() -> None:
    for _ in range(300):
        supervisors = Supervisors(2)
        futures = [supervisors.submit(int) for _ in range(3)]
        supervisors.shutdown(cancel_futures=True)
        assert all(future.done() for future in futures)


@pytest.mark.timeout(60)
def test_a_thread_that_takes_the_last_order_first_does_not_stop_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supervisors = Supervisors(1)

    class Stale:
        """Of a queue that another thread has emptied since one looked."""

        def __init__(self, queue: object) -> None:
            self._queue = queue

        def empty(self) -> bool:
            return False

        def __getattr__(self, name: str) -> object:
            return getattr(self._queue, name)

    monkeypatch.setattr(supervisors, "_submitted", Stale(supervisors._submitted))
    supervisors.shutdown(cancel_futures=True)
    assert not any(thread.is_alive() for thread in supervisors._threads)


def test_waiting_work_is_cancelled() -> None:
    supervisors = Supervisors(1)
    begun, go = supervisors.submit(int), [supervisors.submit(int) for _ in range(50)]
    begun.result(30)
    supervisors.shutdown(cancel_futures=True)
    assert all(future.cancelled() or future.result(0) == 0 for future in go)

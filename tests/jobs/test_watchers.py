"""The threads that watch over the slots of a job on this machine."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from encamp.jobs.worker.watchers import Watchers


def test_as_many_calls_run_at_once_as_there_are_slots_each_in_a_thread_with_a_name() -> None:
    both = threading.Barrier(2, timeout=60)

    def here() -> str:
        both.wait()
        return threading.current_thread().name

    watchers = Watchers(2)
    assert watchers.about == "2 slots on this host"
    futures = [watchers.submit(here), watchers.submit(here)]
    assert {future.result(60) for future in futures} == {"slot-0", "slot-1"}
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("slot-")]
    watchers.shutdown()
    assert not any(thread.is_alive() for thread in threads)


def test_what_a_call_raises_is_for_whoever_asks_and_the_thread_goes_on() -> None:
    watchers = Watchers(1)

    def leave() -> None:
        raise SystemExit(3)

    failed, good = watchers.submit(leave), watchers.submit(pow, 2, 10)
    with pytest.raises(SystemExit):
        failed.result(60)
    assert good.result(60) == 1024
    watchers.shutdown()


def test_calls_that_have_not_begun_are_cancelled_with_the_executor() -> None:
    begun, end = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return end.wait(60)

    watchers = Watchers(1)
    running, waiting, taken_back = (watchers.submit(wait) for _ in range(3))
    assert taken_back.cancel()
    assert begun.wait(60)
    threading.Timer(0.05, end.set).start()
    watchers.shutdown(cancel_futures=True)
    assert running.result(60)
    with pytest.raises(CancelledError):
        waiting.result(60)

"""The executor that jobs use on this machine: threads, each of which supervises a slot.

A job submits `supervise_attempt`, which passes its work to a process. Nothing is pickled between
the run and these threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from encamp.engines.kit.closed_streams import open_standard_streams
from encamp.slot.open_files_limit import need_files
from encamp.timeouts import ENDS
from encamp.units import counted

P = ParamSpec("P")
T = TypeVar("T")


class Supervisors(Executor):
    """As many threads as slots.

    A thread that hangs does not prevent the program's end.
    """

    def __init__(self, slots: int) -> None:
        open_standard_streams()
        need_files(slots)
        self.about = f"{counted(slots, 'slot')} on this host"
        self._submitted: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._work, name=f"slot-{number}", daemon=True) for number in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `concurrent.futures.Executor.submit`."""
        future: Future[T] = Future()
        self._submitted.put((future, partial(fn, *args, **kwargs)))
        return future

    def _work(self) -> None:
        while (submitted := self._submitted.get()) is not None:
            future, call = submitted
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as exc:  # noqa: BLE001 - for the caller of `result`
                    future.set_exception(exc)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads; waits some seconds at most for running calls."""
        with suppress(Empty):  # the threads take calls from the queue, too
            while cancel_futures:
                if (submitted := self._submitted.get_nowait()) is not None:
                    submitted[0].cancel()
        for _ in self._threads:
            self._submitted.put(None)
        deadline = time.monotonic() + ENDS
        for thread in self._threads if wait else ():
            thread.join(max(0.0, deadline - time.monotonic()))

"""The controller's work with files for its tasks, in a thread beside the pump."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from encamp.loop.pump import Pump

Done = Callable[[Any, BaseException | None], None]


class DiskThread:
    """Runs work that may wait for a disk in a separate thread, started when it is needed."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, work: Callable[[], Any], done: Done) -> None:
        """Call ``work``; then ``done`` is called by the pump, with the value or the error."""

        def run() -> None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = work()
            except Exception as exc:  # noqa: BLE001 - it is reported to the waiting caller
                error = exc
            self._pump.call_soon(lambda: done(value, error))

        if self._closed:
            run()
            return
        if self._thread is None:
            # No pool: those of the standard library end before a program's exit functions run.
            self._thread = threading.Thread(target=self._run_all, name="encamp-disk", daemon=True)
            self._thread.start()
        self._work.put(run)

    def _run_all(self) -> None:
        while (run := self._work.get()) is not None:
            run()

    def close(self) -> None:
        """Wait for the running work; later work is done at once. Idempotent."""
        if self._thread is not None and not self._closed:
            self._work.put(None)
            self._thread.join()
        self._closed = True

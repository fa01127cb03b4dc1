"""The controller's work with files for its tasks, in a thread beside the pump."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from encamp.cluster.records import TaskRecord
from encamp.loop.pump import Pump
from encamp.slot.call_folder import FolderResult
from encamp.storage.outputs.publish import publish
from encamp.storage.outputs.stage import unstage

Done = Callable[[Any, BaseException | None], None]
Ended = Callable[[TaskRecord, bool, Any], None]


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
            self._thread = threading.Thread(target=self._go, name="encamp-disk", daemon=True)
            self._thread.start()
        self._work.put(run)

    def _go(self) -> None:
        while (run := self._work.get()) is not None:
            run()

    def publish(
        self, task: TaskRecord, result: FolderResult, check: Callable[[], None], ended: Ended
    ) -> None:
        """Give a task's outputs their final names; then ``ended`` is called by the pump.

        ``check`` raises an error for files that are not the task's outputs.
        """
        if not result.staged:
            ended(task, result.error is None, result.error or result.value)
            return

        def work() -> None:
            check()
            try:
                publish(result.staged)
            finally:
                with suppress(OSError):
                    unstage(result.staged)  # what could not be published

        def done(_: Any, error: BaseException | None) -> None:
            error = result.error or error
            ended(task, error is None, result.value if error is None else error)

        self.run(work, done)

    def close(self) -> None:
        """Wait for the running work; later work is done at once. Idempotent."""
        if self._thread is not None and not self._closed:
            self._work.put(None)
            self._thread.join()
        self._closed = True

"""Outputs of spawned tasks: made visible by the controller, beside the pump."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from encamp.agent.folder import Brought
from encamp.agent.pump import Pump
from encamp.cluster.task import Task
from encamp.errors import EncampError
from encamp.storage.outputs import unstage
from encamp.storage.publish import publish

Ended = Callable[[Task, bool, Any], None]


class Publisher:
    """Renames outputs to their final names in a thread of its own, started when it is needed."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._thread: ThreadPoolExecutor | None = None
        self.busy = 0

    def publish(self, task: Task, brought: Brought, ended: Ended) -> None:
        """Publish what a task brought; then ``ended`` is called by the pump."""
        if not brought.staged:
            ended(task, brought.error is None, brought.error or brought.value)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="encamp-publish")
        self.busy += 1

        def work() -> None:
            error = brought.error
            try:
                publish(brought.staged)
            except (EncampError, OSError) as exc:
                error = error or exc
            finally:
                with suppress(OSError):
                    unstage(brought.staged)  # what could not be published
            self._pump.soon(lambda: done(error))

        def done(error: BaseException | None) -> None:
            self.busy -= 1
            ended(task, error is None, brought.value if error is None else error)

        self._thread.submit(work)

    def close(self) -> None:
        """Wait for what is under way."""
        if self._thread is not None:
            self._thread.shutdown()

"""An executor that runs nothing: what comes back is the test's."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import Executor, Future
from typing import Any

from msgspec.structs import replace

from encamp.jobs.worker.work_and_outcome import Outcome, Work

GOOD = Outcome()


class Scripted(Executor):
    """Runs nothing: each task's outcomes are given, and the last of them again and again.

    Futures end in `submit`; with ``held``, when as many tasks wait, the first of them, but those
    of the tasks ``quick`` at once.
    """

    def __init__(
        self,
        outcomes: dict[str, list[Any]] | None = None,
        held: int = 1,
        quick: Collection[str] = (),
    ) -> None:
        self.outcomes = outcomes or {}
        self.held, self.quick = held, quick
        self.works: list[Work] = []
        self.waiting: list[tuple[Future[Any], Any]] = []
        self.most = 0
        self._lock = threading.Lock()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        (work,) = args
        self.works.append(work)
        future: Future[Any] = Future()
        given = self.outcomes.get(work.task, [GOOD])
        outcome = given.pop(0) if len(given) > 1 else given[0]
        if callable(outcome):
            outcome = outcome(work)
        if work.task in self.quick:
            _end(future, outcome)
            return future
        self.waiting.append((future, outcome))
        self.most = max(self.most, len(self.waiting))
        if len(self.waiting) >= self.held:
            self.release()
        return future

    def release(self, count: int = 1) -> None:
        """Let the oldest tasks end; from any thread."""
        with self._lock:
            ended = self.waiting[:count]
            del self.waiting[:count]
        for future, outcome in ended:
            _end(future, outcome)

    def numbers(self, task: str) -> list[int]:
        """The numbers of a task's attempts."""
        return [work.attempt for work in self.works if work.task == task]


def _end(future: Future[Any], outcome: Any) -> None:
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(replace(outcome))

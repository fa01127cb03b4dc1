"""Attempts that a run has submitted to its executor, and their results."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from contextlib import suppress

from encamp.errors import EngineFailed, shortened
from encamp.jobs.run.executors import answering, hosts_elsewhere, why_gone
from encamp.jobs.worker.supervise_attempt import supervise_attempt
from encamp.jobs.worker.work_and_outcome import Outcome, Work
from encamp.storage.files_by_request import TaskFiles
from encamp.storage.outputs.patterns import Output, folders_of
from encamp.storage.outputs.sees_destination import Beacons

SILENCE = 5.0
"""Seconds without any result after which the run checks whether the executor is still there."""

Arrival = tuple[str, "Future[Outcome]"]


class Submissions:
    """Attempts that were submitted to the executor, and have not ended.

    Each has `TaskFiles`, which receive outputs if its worker cannot write to the destination.
    """

    def __init__(self, executor: Executor, token: str) -> None:
        self.executor = executor
        self.futures: dict[Future[Outcome], str] = {}
        self.over: EngineFailed | None = None
        """The error if nothing can run any more."""
        self._arrived: queue.SimpleQueue[Arrival | None] = queue.SimpleQueue()
        self._files: dict[str, TaskFiles] = {}
        self.elsewhere = hosts_elsewhere(executor)
        """Whether workers may be on hosts that do not share this one's disks."""
        self._beacons = Beacons(token) if self.elsewhere else None
        self._last_arrival = time.monotonic()
        """When a result arrived last, or the executor was last known to be there."""
        self._seen_gone = False

    @property
    def some_arrived(self) -> bool:
        """Whether `arrivals` has something at once."""
        return not self._arrived.empty()

    def beacon(self, outputs: Iterable[Output]) -> str:
        """The description that workers use to find out whether they see the outputs' folders."""
        if self._beacons is None:
            return ""
        self._beacons.put(folders_of(outputs))
        return self._beacons.description

    def submit(self, name: str, work: Work) -> bool:
        """Submit an attempt; returns whether it is accepted. Sets `over` if the engine failed."""
        files = TaskFiles(
            (*work.shared, *work.inputs), (*work.outputs, *work.on_failure, work.logs)
        )
        try:
            executor = answering(self.executor, files.answer) if self.elsewhere else self.executor
            future = executor.submit(supervise_attempt, work)
            _check(self.executor, future)
        except EngineFailed as exc:
            self.over = exc
            return False
        except Exception as exc:  # noqa: BLE001 - broken, or shut down by its owner
            future = Future()
            future.set_exception(exc)
        self._files[name] = files
        self.futures[future] = name
        future.add_done_callback(lambda ended: self._arrived.put((name, ended)))
        return True

    def wake(self) -> None:
        """Have `arrivals` return at once; for signal handlers."""
        self._arrived.put(None)

    def arrivals(self, timeout: float, pause: Callable[[], float], most: int) -> list[Arrival]:
        """The results that have arrived since the last call; waits for one, or for a signal.

        Collects more of them for the seconds that ``pause`` returns, up to ``most``.
        """
        arrivals: list[Arrival | None] = []
        with suppress(queue.Empty):
            arrivals.append(self._arrived.get(timeout=timeout))
            if seconds := pause():
                time.sleep(seconds)
            while len(arrivals) < most:
                arrivals.append(self._arrived.get_nowait())
        return list(filter(None, arrivals))

    def take(self, arrival: Arrival) -> TaskFiles:
        """Remove an ended attempt; returns its files, to be closed after publishing its outputs."""
        name, future = arrival
        del self.futures[future]
        return self._files.pop(name)

    def look(self, *, arrived: bool) -> bool:
        """Check whether the executor has ended; two such checks in a row decide it.

        Returns true if this check did; then nothing arrives any more.
        """
        now = time.monotonic()
        if not arrived and now - self._last_arrival < SILENCE:
            return False
        self._last_arrival = now
        why = None if arrived else why_gone(self.executor)
        if why is None:
            self._seen_gone = False
        elif not self._seen_gone:
            self._seen_gone = True
        elif self.over is None:
            self._gone(why)
            self.futures.clear()  # they cannot be cancelled any more
            return True
        return False

    def see_cancelled(self) -> None:
        """Check whether the executor has ended, because a different caller cancelled an attempt."""
        if self.over is None and (why := why_gone(self.executor)):
            self._gone(why)

    def _gone(self, why: str) -> None:
        library = type(self.executor).__module__.partition(".")[0]
        why = f"{why}; finished tasks stay done; run again to continue"
        self.over = EngineFailed(library, why)

    def stop(self) -> None:
        """Cancel attempts that have not started, and accept no more files."""
        for files in self._files.values():
            files.stop()
        for future in list(self.futures):  # waiting ones first, so that none of them starts
            future.cancel()

    def close(self) -> None:
        """Remove what was created for attempts that did not end."""
        for files in self._files.values():
            files.close()
        if self._beacons is not None:
            self._beacons.close()


def _check(executor: Executor, future: object) -> None:
    if not isinstance(future, Future):
        what = f"submit() returned {shortened(repr(future))}, not a concurrent.futures.Future"
        raise EngineFailed(type(executor).__qualname__, what)

"""Tasks that have found a disk full: they are tried again when another task has ended."""

from __future__ import annotations

from collections import deque

from encamp.jobs.run.submitted_task import SubmittedTask


class WaitingForSpace:
    """Tasks that wait for space on a disk, which is not a failure."""

    def __init__(self) -> None:
        self._tasks: deque[tuple[int, str, SubmittedTask]] = deque()
        """Each after the number of tasks that had ended when it began to wait."""

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, name: str, task: SubmittedTask, ended: int) -> None:
        """Let a task wait; ``ended`` tasks have ended so far."""
        task.found_the_disk_full()
        self._tasks.append((ended, name, task))

    def next(self, ended: int, *, alone: bool) -> tuple[str, SubmittedTask] | None:
        """Remove and return a task to be tried again: if another has ended, or none runs (alone).

        None if all must wait on.
        """
        if not self._tasks or not (alone or ended > self._tasks[0][0]):
            return None
        _, name, task = self._tasks.popleft()
        return name, task

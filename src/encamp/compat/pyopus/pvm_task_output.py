"""The output of PVM's tasks, as the spawner shows it if ``debug`` is above 1."""

from __future__ import annotations

from encamp.cluster.print_output import show
from encamp.compat.pyopus.spawner import opened


class TaskOutput:
    """Shows the output of tasks, line by line with the task's id, if that is wanted."""

    def __init__(self) -> None:
        self.wanted = False
        self._begun: dict[int, str] = {}

    def take(self, number: int, text: str) -> None:
        """Show a task's output; an incomplete line waits for its end."""
        *whole, self._begun[number] = (self._begun.get(number, "") + text).split("\n")
        self._show(number, whole)

    def end(self, number: int) -> None:
        """Show the incomplete last line of an ended task."""
        self._show(number, [line for line in [self._begun.pop(number, "")] if line])

    def end_all(self) -> None:
        """The same for all tasks."""
        for number in list(self._begun):
            self.end(number)

    def _show(self, number: int, lines: list[str]) -> None:
        ours = opened()
        if not self.wanted or ours is None or not lines:
            return
        prefix = f"[t{ours.ids.get(number, number)}] "
        show("".join(f"{prefix}{line}\n" for line in lines))


task_output = TaskOutput()

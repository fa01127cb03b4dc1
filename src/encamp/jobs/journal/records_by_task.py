"""Records of tasks, left in the journal's file: each is read when it is needed."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import IO

from encamp.attempt_facts import Published
from encamp.jobs.journal.journal_file import JournalFile, extent, length_of
from encamp.jobs.journal.record import Record, decoded, outputs_in, seen


class RecordsByTask(Mapping[str, Record]):
    """Records of tasks in a journal's file, by the tasks' names."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file
        self._extents: dict[str, int] = {}

    def note(self, task: str, at: int) -> None:
        """Set the extent of a task's record."""
        self._extents[task] = at

    def discard(self, task: str) -> None:
        """Forget the record of a task."""
        self._extents.pop(task, None)

    def line(self, task: str) -> bytes | None:
        """A record as a line of the file; None if the task has none."""
        at = self._extents.get(task)
        return None if at is None else self._file.line(at)

    def outputs(self, task: str) -> list[Published]:
        """The outputs that a task had published when it was done."""
        line = self.line(task)
        return [] if line is None else outputs_in(seen(line, task))

    def clear(self) -> None:
        """Forget all."""
        self._extents = {}

    def kept(self) -> RecordsByTask:
        """A copy that can be read as long as it exists, see `JournalFile.kept`."""
        other = RecordsByTask(self._file.kept())
        other._extents = self._extents
        return other

    @property
    def size(self) -> int:
        """Their size in the file, in bytes."""
        return sum(map(length_of, self._extents.values()))

    def copy_to(self, file: IO[bytes]) -> array[int]:
        """Write all to another file; returns their extents there, for `moved`."""
        extents, end = array("Q"), file.tell()
        for at in self._extents.values():
            line = self._file.line(at)
            extents.append(extent(end, len(line)))
            file.write(line)
            end += len(line)
        return extents

    def moved(self, extents: array[int]) -> None:
        """Record the new extents after the file was rewritten."""
        self._extents.update(zip(self._extents, extents, strict=True))

    def __getitem__(self, task: str) -> Record:
        record = decoded(self._file.line(self._extents[task]))
        if record is None or record.task != task:  # another run has rewritten the file
            raise KeyError(task)
        return record

    def __contains__(self, task: object) -> bool:
        return task in self._extents

    def __iter__(self) -> Iterator[str]:
        return iter(self._extents)

    def __len__(self) -> int:
        return len(self._extents)

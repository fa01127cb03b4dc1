"""The journal of a job: what is done, so that another run does only the rest.

``journal.jsonl`` in the job's folder has one JSON object per line, and is only appended to while a
run continues. An unfinished line of a killed run is skipped. The journal's records are checked
against the disk before they are used, and nothing in them is ever executed. File names count only
if the job could have published them (see `may_have_published`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from encamp.attempt_facts import Published
from encamp.errors import NotOurs, printable
from encamp.jobs.journal.journal_file import NAME, JournalFile, lines_of, opened
from encamp.jobs.journal.record import Line, Record, encoded, on_disk, outputs_in, path_of
from encamp.jobs.journal.records_by_task import RecordsByTask
from encamp.jobs.journal.run_lock import refusal, run_lock
from encamp.jobs.run_lease import PREFIX
from encamp.storage.disk.trusted_files import TrustedFiles, TrustedFolder
from encamp.storage.outputs.accepted_names import below


class Journal:
    """The journal of one job; on all hosts together, one at a time may be open for writing."""

    def __init__(
        self,
        folder: Path,
        *,
        shared: bool = False,
        anybody: bool = False,
        is_true: bool = False,
    ) -> None:
        self.folder = folder
        self.own_folder = TrustedFolder(folder, shared, anybody, is_true)
        self._file = JournalFile(self.own_folder)
        self.done = RecordsByTask(self._file)
        self.attempts: dict[str, int] = {}
        """Attempts since each task was last done, including those in runs that were killed."""
        self.earlier: dict[str, dict[str, Published | None]] = {}
        """Final names that once belonged to a task, but are not in its last result; None for a
        file whose other facts were not recorded before the run was killed."""
        self.rescued: dict[str, set[str]] = {}
        """By task, the files that were rescued after a failure."""
        self.failed = RecordsByTask(self._file)
        """Tasks that failed and were not done since."""
        self.left: set[str] = set()
        """Tasks that the last run's job did not have."""
        self.has_locks = True
        """Whether a lock excludes other runs; known while the journal is open for writing."""

    @cached_property
    def may_have_published(self) -> Callable[[str], bool]:
        """Whether the job could ever have published a path; by default below its destination."""
        return below([self.folder.parent])

    def read(self, watch: Callable[[Line], object] | None = None) -> None:
        """Read the journal; a missing one is empty. Raises `NotOurs`.

        ``watch`` gets all lines, in order.
        """
        self._forget_all()
        with suppress(FileNotFoundError), self.own_folder.opened() as files:
            self._read(files, watch)

    def _forget_all(self) -> None:
        for part in (self.done, self.attempts, self.earlier, self.rescued, self.failed, self.left):
            part.clear()
        self._file.close()

    def _read(self, files: TrustedFiles, watch: Callable[[Line], object] | None = None) -> None:
        for record, at in lines_of(files):
            if watch is not None:
                watch(record)
            self._note_record(record, at)

    @property
    def warnings(self) -> list[str]:
        """Warnings about features that its disk lacks."""
        if self.has_locks:
            return []
        disk = f"the disk of {printable(self.folder)} has no locks"
        why = "encamp notices another run of the job only by its heartbeats"
        return [f"{disk}: {why}; do not start two runs at the same time"]

    def own(self, task: str) -> set[str]:
        """All final names that have ever belonged to this task."""
        now = _names_of(self.done.outputs(task)) if task in self.done else ()
        return {*now, *self.earlier.get(task, ())}

    def current(self) -> Iterator[str]:
        """The finished tasks that the job still has."""
        return (task for task in self.done if task not in self.left)

    @property
    def tasks(self) -> set[str]:
        """All tasks in the journal."""
        return {*self.done, *self.attempts, *self.earlier}

    def note_tasks(self, tasks: Collection[str]) -> None:
        """Record which tasks have left the job since its last run, and which are back."""
        changed = {"left": self.tasks.difference(tasks) - self.left}
        changed["joined"] = self.left.intersection(tasks)
        for event, names in changed.items():
            if names:
                now = time.time()
                self.write(*[Record(event, task, now) for task in sorted(names)])

    def _note_record(self, record: Record | Line, at: int) -> None:
        task = record.task
        match record.event:
            case "done":
                self._supersede(task)
                self.done.note(task, at)
                self.attempts.pop(task, None)
                self.failed.discard(task)
                if task in self.earlier:  # few of a million tasks are
                    self._forget(task, _names_of(outputs_in(record)))
            case "failed":
                self.failed.note(task, at)
            case "submitted":
                self._supersede(task)
                self.attempts[task] = record.attempt
            case "publishing":
                self.earlier.setdefault(task, {}).update(dict.fromkeys(map(path_of, record.paths)))
            case "rescued":
                paths = list(map(path_of, record.paths))
                self.earlier.setdefault(task, {}).update(dict.fromkeys(paths))
                self.rescued.setdefault(task, set()).update(paths)
            case "earlier":
                files = {file.path: file for file in map(on_disk, record.files)}
                self.earlier.setdefault(task, {}).update(files)
            case "pruned":
                self._pruned(task, list(map(path_of, record.paths)))
            case "left":
                self.left.add(task)
                self.failed.discard(task)
            case _:  # joined
                self.left.discard(task)

    def _pruned(self, task: str, paths: Iterable[str]) -> None:
        if task in self.left:
            self._supersede(task)
        self._forget(task, paths)
        if task in self.left and task not in self.earlier:
            self.left.discard(task)
            self.attempts.pop(task, None)

    def _supersede(self, task: str) -> None:
        """Record that former outputs are no longer the task's result, but were once its own."""
        if task not in self.done:
            return
        if outputs := _names_of(self.done.outputs(task)):
            self.earlier.setdefault(task, {}).update(outputs)
        self.done.discard(task)

    def _forget(self, task: str, paths: Iterable[str]) -> None:
        for part in (self.earlier, self.rescued):
            if (own := part.get(task)) is None:
                continue
            for path in paths:
                own.pop(path, None) if isinstance(own, dict) else own.discard(path)
            if not own:
                del part[task]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Read it, lock out other runs of this job, and allow `write`.

        Raises `JobBusy`, `NotOurs`, or `BadDestination` or `DiskFull` if the job's folder cannot be
        written.
        """
        with ExitStack() as held:
            try:
                files = held.enter_context(self.own_folder.held())
                self._check(files)
                self.has_locks = held.enter_context(run_lock(self.own_folder, files))
                files.discard_temporary()
                self._load(files)
            except OSError as exc:
                raise refusal(exc, self.folder) from exc
            try:
                yield
            finally:
                try:
                    self.flush()
                finally:
                    self._file.close()

    def _check(self, files: TrustedFiles) -> None:
        """Check that the folder is a job's, keep other users out, and create the folder of logs."""
        _check_is_jobs(files)
        with suppress(FileNotFoundError):
            os.close(opened(files))
        files.tighten()
        logs = files.below("logs", make=True)
        logs.tighten()
        logs.close()

    def _load(self, files: TrustedFiles) -> None:
        """Read the file, create it if it is missing, and open it for `write`."""
        self._forget_all()
        is_new = False
        try:
            self._read(files)
        except FileNotFoundError:
            is_new = not self.own_folder.shared  # there, a new file needs the group's permissions
        if is_new:
            files.make(NAME, b"")
        else:
            self._compact(files)
        self._file.open(files)

    def write(self, *records: Record) -> list[bytes]:
        """Append records; returns their lines.

        They survive this process at once, and the host's crash after `flush`. Raises `DiskFull`, or
        OSError from the disk.
        """
        if not records:
            return []
        lines = [encoded(record) + b"\n" for record in records]
        for record, at in zip(records, self._file.append(lines), strict=True):
            self._note_record(record, at)
        return lines

    @property
    def file(self) -> Path:
        """The path of its file."""
        return self.folder / NAME

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        self._file.flush()

    def _is_compact(self, files: TrustedFiles) -> bool:
        """Whether the file belongs to us alone and contains only current records."""
        more = self.attempts or self.earlier or self.failed or self.left
        if not self.done or more or self.own_folder.shared:
            return False
        status = files.status(NAME)
        ours = status.st_uid == os.geteuid() and status.st_nlink == 1
        return ours and status.st_size == self.done.size

    def _compact(self, files: TrustedFiles) -> None:
        """Rewrite the current records, so that a journal does not grow with every run."""
        if self._is_compact(files):
            return
        tries = [Record("submitted", task, 0.0, number) for task, number in self.attempts.items()]
        records: list[Record] = []
        for task, earlier in self.earlier.items():
            records += _as_records(task, earlier, self.rescued.get(task, set()))
        records += [Record("left", task, 0.0) for task in sorted(self.left)]
        with files.replacing(NAME) as file:
            done = self.done.copy_to(file)
            file.writelines(encoded(record) + b"\n" for record in tries)
            failed = self.failed.copy_to(file)  # after the tries that failed
            file.writelines(encoded(record) + b"\n" for record in records)
        self.done.moved(done)
        self.failed.moved(failed)


def _names_of(outputs: Iterable[Published]) -> dict[str, Published]:
    """The names that belong to a result, and its outputs."""
    return {output.path: output for output in outputs if not output.kept}


def _as_records(
    task: str, files: Mapping[str, Published | None], rescued: Collection[str]
) -> Iterator[Record]:
    known = [file for path, file in sorted(files.items()) if file is not None]
    unknown = sorted(path for path, file in files.items() if file is None and path not in rescued)
    if rescued:
        yield Record("rescued", task, 0.0, paths=sorted(rescued))
    if unknown:
        yield Record("publishing", task, 0.0, paths=unknown)
    if known:
        yield Record("earlier", task, 0.0, files=known)


def _check_is_jobs(files: TrustedFiles) -> None:
    """Raise `NotOurs` for a folder with files that no run has made."""
    names = set(files.names()) - {"logs"}
    if names and not any(name.startswith(_OF_RUNS) for name in names):
        why = (
            "it contains files but no journal of a job; give the job a different name, or move "
            "the folder away"
        )
        raise NotOurs(str(files.path), why)


_OF_RUNS = ("lock", NAME, PREFIX)
"""The beginnings of names that every run leaves in the job's folder."""

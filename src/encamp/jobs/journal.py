"""The journal of a job: what is done, so that another run does only the rest.

``journal.jsonl`` in the job's folder has one JSON object per line, and is only appended to while a
run goes on. An unfinished line of a killed run is skipped. The journal's records are checked
against the disk before they are used, and nothing in them is ever executed. File names count only
if the job could have published them (see `may_have_published`).
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec

from encamp.attempt_facts import Published
from encamp.errors import BadJob, NotOurs, printable
from encamp.job_status import State
from encamp.jobs.run.run_lock import refusals, run_lock
from encamp.jobs.worker.lease import PREFIX
from encamp.reports import TaskReport
from encamp.storage.disk.disk import flushed, not_written
from encamp.storage.disk.own_files import OwnFiles, OwnFolder
from encamp.storage.outputs.accepted_names import below
from encamp.storage.urls import without_scheme

Key = dict[str, str]
"""What a task's result depends on: part (code, inputs, …) → digest."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the journal.

    Its ``event`` is: ``submitted``; ``publishing`` or ``rescued`` (after a failure), with
    ``paths``; ``failed``; ``done``; ``left`` (the job) or ``joined`` (again); ``earlier``, with
    ``files`` that the task has published and its last result lacks; ``pruned``, with those
    ``paths`` of them that were removed.
    """

    event: str
    task: str
    time: float
    attempt: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    key: Key = msgspec.field(default_factory=dict)
    report: TaskReport | None = None
    paths: list[str] = msgspec.field(default_factory=list)
    files: list[Published] = msgspec.field(default_factory=list)


NAME = "journal.jsonl"
_LONGEST_LINE = 1 << 28
"""Bytes of a line, at most; longer ones are not encamp's."""
_READ_AT_ONCE = 1 << 20
"""Bytes of the file, which may have a million lines."""


class Result(msgspec.Struct, frozen=True, gc=False):
    """The part of a task's report that a run needs."""

    name: str
    state: State
    outputs: list[Published] = []


class Line(msgspec.Struct, frozen=True, gc=False):
    """The part of a record that a run needs, which is read in a fifth of the time."""

    event: str
    task: str
    time: float
    attempt: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    key: Key = {}
    report: Result | None = None
    paths: list[str] = []
    files: list[Published] = []


Extent = tuple[int, int]
"""The offset of a line in the journal, and its length."""
_LENGTH = 32
"""Bits for the length: one number for each of a million lines takes less memory than two."""


class Records(Mapping[str, Record]):
    """Records of tasks, left in the journal's file: each is read when it is needed."""

    def __init__(self) -> None:
        self._extents: dict[str, int] = {}
        self._folder = OwnFolder(Path())
        self._fd = -1

    def stand_in(self, folder: OwnFolder) -> None:
        """Use the records in a folder's journal; there is none yet."""
        self.close()
        self._extents, self._folder = {}, folder

    def note(self, task: str, at: Extent) -> None:
        """The record of a task is at this position."""
        self._extents[task] = at[0] << _LENGTH | at[1]

    def discard(self, task: str) -> None:
        """The record of a task is no longer valid."""
        self._extents.pop(task, None)

    def line(self, task: str) -> bytes | None:
        """A record as a line of the file; None if the task has none."""
        extent = self._extents.get(task)
        return None if extent is None else self._read(extent)

    def outputs(self, task: str) -> list[Published]:
        """The outputs that a task had published when it was done."""
        line = self.line(task)
        return [] if line is None else outputs_in(seen(line, task))

    def clear(self) -> None:
        """Forget all."""
        self._extents = {}

    def kept(self) -> Records:
        """A copy; if the file is open now, all can be read as long as the copy exists."""
        other = Records()
        other._extents, other._folder = self._extents, self._folder
        if self._fd >= 0:
            other._fd = os.dup(self._fd)
        return other

    @property
    def size(self) -> int:
        """Their size in the file, in bytes."""
        return sum(extent % (1 << _LENGTH) for extent in self._extents.values())

    def copy_to(self, file: IO[bytes]) -> array[int]:
        """Write all to another file; returns their positions there, for `moved_to`."""
        extents, end = array("Q"), file.tell()
        for extent in self._extents.values():
            line = self._read(extent)
            extents.append(end << _LENGTH | len(line))
            file.write(line)
            end += len(line)
        return extents

    def moved_to(self, folder: OwnFolder, extents: array[int]) -> None:
        """They are in this folder's journal now."""
        self.close()
        self._extents.update(zip(self._extents, extents, strict=True))
        self._folder = folder

    def read_from(self, fd: int) -> None:
        """Read them from the file that is open as ``fd``, until `close`."""
        self.close()
        self._fd = os.dup(fd)

    def close(self) -> None:
        """Close the file until a record is needed; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def __getitem__(self, task: str) -> Record:
        record = decoded(self._read(self._extents[task]))
        if record is None or record.task != task:  # another run has written the file anew
            raise KeyError(task)
        return record

    def __contains__(self, task: object) -> bool:
        return task in self._extents

    def __iter__(self) -> Iterator[str]:
        return iter(self._extents)

    def __len__(self) -> int:
        return len(self._extents)

    def _read(self, extent: int) -> bytes:
        if self._fd < 0:
            with self._folder.opened() as files:
                self._fd = files.open(NAME)
        start, length = divmod(extent, 1 << _LENGTH)
        return os.pread(self._fd, length, start)


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
        self.own_folder = OwnFolder(folder, shared, anybody, is_true)
        self.may_have_published: Callable[[str], bool] = below([folder.parent])
        """Whether the job could ever have published a path; by default below its destination."""
        self.done = Records()
        self.attempts: dict[str, int] = {}
        """Tries that tasks have had since they were last done, also in runs that were killed."""
        self.earlier: dict[str, dict[str, Published | None]] = {}
        """Final names that were once a task's, but are not in its last result; None if the run was
        killed before the rest was recorded."""
        self.rescued: dict[str, set[str]] = {}
        """Those of them that were rescued from a failure."""
        self.failed = Records()
        """Tasks that failed and were not done since."""
        self.left: set[str] = set()
        """Tasks that the last run's job did not have."""
        self.has_locks = True
        """Whether a lock excludes other runs; known while the journal is open for writing."""
        self._fd = -1
        self._end = 0
        """The offset of the next line."""

    def read(self, watch: Callable[[Line], object] = lambda _: None) -> None:
        """Read the journal; a missing one is empty. Raises `NotOurs`.

        ``watch`` gets all lines, in order.
        """
        for part in (self.done, self.attempts, self.earlier, self.rescued, self.failed, self.left):
            part.clear()
        self.done.stand_in(self.own_folder)
        self.failed.stand_in(self.own_folder)
        for record, at in _lines(self.own_folder):
            watch(record)
            self._take_in(record, at)

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
        now = _own(self.done.outputs(task)) if task in self.done else ()
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
        left = sorted(self.tasks.difference(tasks) - self.left)
        joined = sorted(self.left.intersection(tasks))
        now = time.time()
        self.write(
            *(Record("left", task, now) for task in left),
            *(Record("joined", task, now) for task in joined),
        )

    def _take_in(self, record: Record | Line, at: Extent) -> None:
        task = record.task
        match record.event:
            case "done":
                self._supersede(task)
                self.done.note(task, at)
                self.attempts.pop(task, None)
                self.failed.discard(task)
                if task in self.earlier:  # of a million tasks few are
                    self._forget(task, _own(outputs_in(record)))
            case "failed":
                self.failed.note(task, at)
            case "submitted":
                self._supersede(task)
                self.attempts[task] = record.attempt
            case "publishing":
                self.earlier.setdefault(task, {}).update(dict.fromkeys(map(_path_of, record.paths)))
            case "rescued":
                paths = list(map(_path_of, record.paths))
                self.earlier.setdefault(task, {}).update(dict.fromkeys(paths))
                self.rescued.setdefault(task, set()).update(paths)
            case "earlier":
                files = {file.path: file for file in map(_on_disk, record.files)}
                self.earlier.setdefault(task, {}).update(files)
            case "pruned":
                self._pruned(task, list(map(_path_of, record.paths)))
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
        """The task's former outputs are no longer its result, but were once its own."""
        if task not in self.done:
            return
        if outputs := _own(self.done.outputs(task)):
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
            self._begin(held)
            with run_lock(self.own_folder) as locked:
                self.has_locks = locked
                self.read()
                with refusals(self.folder), self.own_folder.opened() as files:
                    files.discard_temporary()
                    self._compact(files)
                    self._fd = files.open(NAME, os.O_RDWR | os.O_APPEND)
                    self.done.read_from(self._fd)
                    self.failed.read_from(self._fd)
                    self._end = os.fstat(self._fd).st_size
                try:
                    yield
                finally:
                    try:
                        self.flush()
                    finally:
                        os.close(self._fd)
                        self._fd = -1
                        self.done.close()
                        self.failed.close()

    def _begin(self, held: ExitStack) -> None:
        """Create the job's folder if it is missing, and keep it open."""
        with refusals(self.folder):
            files = held.enter_context(self.own_folder.held())
            _check_is_jobs(files)
            with suppress(FileNotFoundError):
                os.close(_opened(files))
            files.tighten()
            logs = files.below("logs", make=True)
            logs.tighten()
            logs.close()

    def write(self, *records: Record) -> list[bytes]:
        """Append records; returns their lines.

        They survive this process at once, and the host's crash after `flush`. Raises `DiskFull`, or
        OSError from the disk.
        """
        if not records:
            return []
        lines = [encoded(record) + b"\n" for record in records]
        view = memoryview(b"".join(lines))
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as exc:
            with suppress(OSError):
                os.ftruncate(self._fd, self._end)  # an incomplete line would damage the next one
            raise not_written(exc, self.folder, len(view)) from exc
        for record, line in zip(records, lines, strict=True):
            self._take_in(record, (self._end, len(line)))
            self._end += len(line)
        return lines

    @property
    def file(self) -> Path:
        """The path of its file."""
        return self.folder / NAME

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        flushed(self._fd, self.folder)

    def _is_compact(self, files: OwnFiles) -> bool:
        """Whether the file belongs to us alone and contains only current records."""
        more = self.attempts or self.earlier or self.failed or self.left
        if not self.done or more or self.own_folder.shared:
            return False
        status = files.status(NAME)
        ours = status.st_uid == os.geteuid() and status.st_nlink == 1
        return ours and status.st_size == self.done.size

    def _compact(self, files: OwnFiles) -> None:
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
        self.done.moved_to(self.own_folder, done)
        self.failed.moved_to(self.own_folder, failed)


def outputs_in(record: Record | Line | None) -> list[Published]:
    """The outputs that a task had published when it was done."""
    return list(map(_on_disk, record.report.outputs)) if record and record.report else []


def _own(outputs: Iterable[Published]) -> dict[str, Published]:
    """The names that belong to a result, and its outputs."""
    return {output.path: output for output in outputs if not output.kept}


def _on_disk(published: Published) -> Published:
    """An output by its path, which an earlier version recorded by a URL of this host's disk."""
    path = _path_of(published.path)
    return published if path == published.path else replace(published, path=path)


def _path_of(name: str) -> str:
    with suppress(BadJob):
        return without_scheme(name)
    return name


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


def encoded(record: Record) -> bytes:
    """A record as a line, without its end."""
    with suppress(UnicodeEncodeError):
        line = msgspec.json.encode(record)
        if _MARK not in line:
            return line
    return msgspec.json.encode(escaped(msgspec.to_builtins(record)))


def has_odd(line: bytes) -> bool:
    """Whether a line contains text that JSON cannot represent directly."""
    return _MARK in line


def escaped(value: Any) -> Any:
    """``value`` with undecodable bytes of file names escaped for JSON."""
    match value:
        case str():
            odd = _odd(value) or value.startswith(_ESCAPE)
            return _ESCAPE + value.encode("utf-8", "surrogatepass").hex() if odd else value
        case dict():
            return {escaped(key): escaped(inner) for key, inner in value.items()}
        case list() | tuple():
            return [escaped(inner) for inner in value]
    return value


def _unescaped(value: Any) -> Any:
    match value:
        case str() if value.startswith(_ESCAPE):
            return bytes.fromhex(value[len(_ESCAPE) :]).decode("utf-8", "surrogatepass")
        case dict():
            return {_unescaped(key): _unescaped(inner) for key, inner in value.items()}
        case list():
            return [_unescaped(inner) for inner in value]
    return value


_ESCAPE = "\x00hex:"
_MARK = b"\\u0000hex:"
"""The same in a line: this one has something to unescape."""


def _odd(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def _check_is_jobs(files: OwnFiles) -> None:
    """Raise `NotOurs` for a folder with files that no run has made."""
    names = set(files.names()) - {"logs"}
    if names and not any(name.startswith(_OF_RUNS) for name in names):
        why = (
            "it contains files but no journal of a job; give the job another name, or move "
            "the folder away"
        )
        raise NotOurs(str(files.path), why)


def _opened(files: OwnFiles) -> int:
    """A descriptor of the journal; raises `NotOurs`, also if others could have put it there."""
    fd = files.open(NAME)
    try:
        files.check_writers()
    except BaseException:
        os.close(fd)
        raise
    return fd


_OF_RUNS = ("lock", NAME, PREFIX)
"""The beginnings of names that every run leaves in the job's folder."""


def _lines(folder: OwnFolder) -> Iterator[tuple[Line, Extent]]:
    try:
        with folder.opened() as files:
            file = os.fdopen(_opened(files), "rb", _READ_AT_ONCE)
    except FileNotFoundError:
        return
    with file:
        start, end = 0, os.fstat(file.fileno()).st_size
        while start < end and (line := file.readline(_LONGEST_LINE)):
            if line.endswith(b"\n") and (record := seen(line)) is not None:
                yield record, (start, len(line))
            start += len(line)


_DECODER = msgspec.json.Decoder(Record)
_SEEN = msgspec.json.Decoder(Line)
_NO_RECORD = (msgspec.MsgspecError, ValueError, RecursionError)


def decoded(line: bytes) -> Record | None:
    """A line as a record; None if it is damaged or unfinished."""
    try:
        if _MARK not in line:
            return _DECODER.decode(line)
        return msgspec.convert(_unescaped(msgspec.json.decode(line)), Record)
    except _NO_RECORD:
        return None


def seen(line: bytes, task: str | None = None) -> Line | None:
    """The part of a line that a run needs; None if it is damaged, or of another ``task``."""
    try:
        if _MARK not in line:
            found = _SEEN.decode(line)
        else:
            found = msgspec.convert(_unescaped(msgspec.json.decode(line)), Line)
    except _NO_RECORD:
        return None
    return found if task in (None, found.task) else None

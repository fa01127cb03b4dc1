"""The lines of a journal: records as JSON, and the parts of them that a run needs.

Undecodable bytes of file names are escaped, since JSON cannot represent them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from encamp.attempt_facts import Published
from encamp.errors import BadJob
from encamp.job_status import State
from encamp.reports import TaskReport
from encamp.storage.urls import without_scheme

Key = dict[str, str]
"""The parts that a task's result depends on (code, inputs, …) → their digests."""


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


def outputs_in(record: Record | Line | None) -> list[Published]:
    """The outputs that a task had published when it was done."""
    return list(map(on_disk, record.report.outputs)) if record and record.report else []


def on_disk(published: Published) -> Published:
    """An output by its path, which an earlier version recorded by a URL of this host's disk."""
    if published.path.startswith("/"):
        return published
    path = path_of(published.path)
    return published if path == published.path else replace(published, path=path)


def path_of(name: str) -> str:
    """The path of an output that was recorded by such a URL."""
    with suppress(BadJob):
        return without_scheme(name)
    return name


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
            odd = _has_surrogates(value) or value.startswith(_ESCAPE)
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


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


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

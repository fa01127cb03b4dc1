"""The output of tasks, printed by the program: whole lines, between the program's own."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from encamp.errors import BadJob
from encamp.storage.disk.write_all import write_all
from encamp.wire.wait_for_descriptor import writable

Follower = Callable[[int, str], None]
"""Gets the number of a task, and what it has printed."""


def follower(follow: bool | Follower) -> Follower | None:
    """The function for ``Cluster(follow=)``; True prints each line after its task's number.

    Raises `BadJob`.
    """
    if follow is True:
        show_lines_at_once()
        return _print
    if follow and not callable(follow):
        raise BadJob("follow", f"must be True, False or a function, not {follow!r}")
    return follow or None


def _print(task: int, text: str) -> None:
    show("".join(f"[task {task}] {line}\n" for line in text.splitlines()))


def show_lines_at_once() -> None:
    """Flush the program's output after each line from now on, so that the order is correct."""
    if (stream := _own_stream()) is not None:
        stream.reconfigure(line_buffering=True)


def show(text: str) -> None:
    """Write whole lines to the standard output. Thread-safe, even while another thread prints.

    They appear before an incomplete line of the program. If ``sys.stdout`` was replaced, the text
    is written to the replacement.
    """
    stream = _own_stream()
    if stream is not None:
        fd = stream.fileno()
        write_all(fd, text.encode(stream.encoding, "replace"), lambda: writable(fd, None))
    elif sys.stdout is not None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _own_stream() -> io.TextIOWrapper | None:
    """The process's own standard output, if that is where the program prints."""
    stream = sys.stdout
    if stream is sys.__stdout__ and isinstance(stream, io.TextIOWrapper) and not stream.closed:
        return stream
    return None

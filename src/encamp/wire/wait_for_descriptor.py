"""Waiting for one descriptor. Unlike `select.select`, these take numbers above 1023."""

from __future__ import annotations

import select
from typing import Protocol


class HasFileno(Protocol):
    """An open file, socket or pipe."""

    def fileno(self) -> int:
        """The file's descriptor."""


def readable(file: int | HasFileno, timeout: float | None) -> bool:
    """Wait for something to read, or the end of the file; at most ``timeout`` seconds."""
    return _ready(file, select.POLLIN, timeout)


def writable(file: int | HasFileno, timeout: float | None) -> bool:
    """Wait until something can be written without waiting; at most ``timeout`` seconds."""
    return _ready(file, select.POLLOUT, timeout)


def _ready(file: int | HasFileno, event: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(file, event)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))

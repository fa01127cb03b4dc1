"""Standard error for a display: writing to it neither blocks nor fails.

A stopped terminal (Ctrl-S), a pager that is not read, a pipe without a reader, a full disk and a
closed terminal must not stop a run.
"""

from __future__ import annotations

import io
import os
import stat
import termios
import threading
import time
import weakref
from contextlib import suppress
from typing import TextIO

from encamp.wire.wait_for_descriptor import writable

_MOST_WAITING = 1 << 20
"""Maximum number of bytes that wait for a slow reader; further output is dropped."""
_PIECE = 4096
"""Bytes that can be written without blocking if the descriptor is ready, see pipe(7)."""
_PATIENCE = 5.0
"""Seconds without any progress after which `Screen.drain` gives up."""
_PAUSE = 0.05
_LEFT_OUT = "\n… some lines were left out because they were not read\n"


class Screen(io.TextIOBase):
    """A text stream that writes to ``stream`` without blocking. For any thread."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._left_out = False
        self._fd = _unblocked(stream)
        """The descriptor to write to; -1 if the stream has none."""
        self._dead = stream is None
        if self._fd >= 0:
            weakref.finalize(self, _close, self._fd).atexit = False  # the process's end closes it

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with suppress(Exception):
            return self._stream is not None and self._stream.isatty()
        return False

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, text: str) -> int:
        """Write as much as possible now; the rest later."""
        with self._lock:
            if self._dead:
                return len(text)
            try:
                self._write(text)
            except (OSError, ValueError):  # the disk is full, the reader has ended, or it is closed
                self._dead = True
                self._waiting.clear()
        return len(text)

    def _write(self, text: str) -> None:
        if self._fd < 0:
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
            return
        self._push()
        if len(self._waiting) > _MOST_WAITING:
            self._left_out = True
            return
        if self._left_out:
            self._left_out, text = False, _LEFT_OUT + text
        self._waiting += text.encode(self.encoding, "backslashreplace")
        self._push()

    def _push(self) -> None:
        with suppress(BlockingIOError):
            while self._waiting and not _stops(self._fd) and writable(self._fd, 0):
                del self._waiting[: os.write(self._fd, self._waiting[:_PIECE])]

    def drain(self) -> None:
        """Wait until all is written, or until nothing could be written for some seconds."""
        deadline = time.monotonic() + _PATIENCE
        while self._fd >= 0 and (before := len(self._waiting)):
            writable(self._fd, deadline - time.monotonic())
            self.write("")
            if len(self._waiting) < before:
                deadline = time.monotonic() + _PATIENCE
            elif time.monotonic() > deadline:
                return
            else:
                time.sleep(_PAUSE)


def _close(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)


def _unblocked(stream: TextIO | None) -> int:
    """A separate descriptor for the stream's file, if writing to it might block."""
    try:
        fd = stream.fileno() if stream is not None else -1
        mode = os.fstat(fd).st_mode
    except (OSError, ValueError, AttributeError):
        return -1
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with suppress(OSError):  # it is another user's, or gone
            return os.open(f"/proc/self/fd/{fd}", flags)
    with suppress(OSError):
        return os.dup(fd)
    return -1


def _stops(fd: int) -> bool:
    """Whether writing to a terminal would stop this process, because it is in the background."""
    try:
        behind = os.tcgetpgrp(fd) != os.getpgrp()
        return behind and bool(termios.tcgetattr(fd)[3] & termios.TOSTOP)
    except (OSError, termios.error):  # it is not a terminal, or not this session's
        return False

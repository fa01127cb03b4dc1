"""Redirecting a process's output, and that of its children, to a file."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from encamp.errors import Stopped

_libc = ctypes.CDLL(None)


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append standard output and error of this process and its children to ``log``.

    Descriptors 1 and 2 are redirected, so output of compiled code and crash reports are included.
    Output that is still buffered is written to the file that it was meant for.
    """
    flush()
    saved = os.dup(1), os.dup(2)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    for target in (1, 2):
        os.dup2(fd, target)
    os.close(fd)
    try:
        yield
    finally:
        flush()
        for copy, target in zip(saved, (1, 2), strict=True):
            os.dup2(copy, target)
            os.close(copy)


def flush() -> None:
    """Write out what Python and the C library have buffered for standard output and error."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Stopped:
            raise
        except BaseException:  # noqa: BLE001, S112 - a call may have put any object there
            continue
    _libc.fflush(None)


def complain(text: str) -> None:
    """Write to standard error, whatever a call has done to ``sys.stderr``."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Stopped:
        raise
    except BaseException:  # noqa: BLE001 - see `flush`
        with suppress(OSError):
            os.write(2, text.encode("utf-8", "backslashreplace"))

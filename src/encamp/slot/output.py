"""Redirecting a process's output, and that of its children, to a file."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_libc = ctypes.CDLL(None)


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append standard output and error of this process and its children to ``log``.

    Descriptors 1 and 2 are redirected, so output of compiled code and crash reports are included.
    Output that is still buffered is written to the file for which it was meant.
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
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(OSError, AttributeError):
        _libc.fflush(None)

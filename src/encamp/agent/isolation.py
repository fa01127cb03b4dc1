"""Undoing what code did to the process that it ran in."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def put_back() -> Iterator[None]:
    """Let what runs next find this process as the block did.

    Its current folder (which becomes ``/``), environment, ``sys.path``, umask, standard streams
    and what it does on SIGINT and SIGTERM. Only for the main thread.
    """
    environment, path, mask = dict(os.environ), sys.path[:], _umask()
    handlers = [signal.getsignal(number) for number in _SIGNALS]
    streams = sys.stdin, sys.stdout, sys.stderr
    try:
        yield
    finally:
        os.chdir("/")
        os.umask(mask)
        sys.path[:] = path
        sys.stdin, sys.stdout, sys.stderr = streams
        if environment != dict(os.environ):
            os.environ.clear()
            os.environ.update(environment)
        for number, handler in zip(_SIGNALS, handlers, strict=True):
            signal.signal(number, handler)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

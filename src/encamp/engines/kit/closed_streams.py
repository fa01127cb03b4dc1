"""Standard streams that were closed when this process started."""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w"))


def open_standard_streams() -> None:
    """Open /dev/null for those of descriptors 0, 1 and 2 that are closed; may be called again.

    Otherwise the first files that are opened would get these numbers, and child processes would
    take a socket there for the terminal.
    """
    for fd, (_, flags, _) in enumerate(_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened == fd:
                os.set_inheritable(fd, True)
            else:  # another thread has just opened something
                os.close(opened)


def name_standard_streams() -> None:
    """The same, and also set ``sys.stdin``, ``sys.stdout`` and ``sys.stderr``, for a program."""
    open_standard_streams()
    for fd, (name, _, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            stream = open(fd, mode, closefd=False, errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

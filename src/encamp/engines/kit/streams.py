"""Standard streams that were closed when this process started."""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w"))


def open_standard_streams() -> None:
    """Have /dev/null at those of descriptors 0, 1 and 2 that are closed; may be called again.

    Whatever is opened first would get these numbers otherwise: a socket there would be taken for
    the terminal by every process that is started.
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
    """Let ``sys.stdin``, ``sys.stdout`` and ``sys.stderr`` be there, for a whole program."""
    open_standard_streams()
    for fd, (name, _, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            stream = open(fd, mode, closefd=False, errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

"""Writing all of some bytes to a descriptor, however few of them one call takes."""

from __future__ import annotations

import os
from collections.abc import Callable


def write_all(fd: int, data: bytes, wait: Callable[[], object] | None = None) -> None:
    """Write all of ``data``; raises OSError, perhaps after a part of it was written.

    ``wait`` is called while a descriptor that does not block takes nothing. Without it, that is
    an error, too.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            if wait is None:
                raise
            wait()

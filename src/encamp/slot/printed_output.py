"""The output of tasks: a file, which is sent to the program and emptied after each task."""

from __future__ import annotations

import os
import threading

from encamp.slot.output_limit import ends_of, free_middle
from encamp.slot.redirect_output import flush
from encamp.slot.sockets import SlotSockets
from encamp.wire.protocol import (
    OutputText,
    encode,
)

_HINT = "Cluster(output_limit=...) keeps more"


def kept_output(file: int, most: int) -> bytes:
    """What is kept of the output in a file: its beginning and end, about ``most`` bytes together.

    ``file`` is a descriptor.
    """
    return b"".join(ends_of(file, most, _HINT))


class Printed:
    """The output of tasks, in the file of descriptors 1 and 2."""

    def __init__(self, sockets: SlotSockets, most: int, *, follow: bool) -> None:
        self._sockets, self._most = sockets, most
        self._lock = threading.Lock()
        self._sent = 0
        self._fd = os.dup(1)
        """The file, even if a call closes or redirects its descriptors."""
        self._always = follow
        sockets.look, sockets.follow = self._look, self._follow if follow else None

    def ended(self, task: int) -> None:
        """Send the rest of a task's output, and empty the file."""
        flush()
        for fd in (1, 2):  # a call may have redirected them
            os.dup2(self._fd, fd)
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size:
            with self._lock:
                head, text = ends_of(self._fd, self._most, _HINT)
                os.ftruncate(self._fd, 0)
                self._sent = 0
            number, start = self._sockets.slot.number, size - len(text)
            self._sockets.send([encode(OutputText(number, task, start, text, True, head))])

    def _look(self) -> None:
        """Send new output if it is wanted, and free the disk space of output that is not kept."""
        if self._sockets.slot.follow and not self._always:
            self._follow()
        with self._lock:
            free_middle(self._fd, self._most // 2, self._most // 2)

    def _follow(self) -> None:
        """Send what the running task has printed since the last time."""
        slot = self._sockets.slot
        with self._lock:
            size, task = os.fstat(self._fd).st_size, slot.running
            if task < 0 or size <= self._sent:
                return
            start = max(self._sent, size - self._most)
            text = os.pread(self._fd, size - start, start)
            self._sent = size
        self._sockets.control_writer.send(
            [encode(OutputText(slot.number, task, start, text, False))]
        )

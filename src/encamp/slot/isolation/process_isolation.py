"""Isolation of calls in a slot's own process: it is restored, and its child processes are ended."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from encamp.slot.isolation.process_tree import (
    descendants,
    end_descendants,
    have_children,
    helpers,
    supervised_slots,
)
from encamp.slot.isolation.restore_process import ProcessRestored

if TYPE_CHECKING:
    from psutil import Process


class ProcessIsolation(ProcessRestored):
    """Restores the process after each call, and ends all processes that the call has started."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.spoilt = False
        """Whether some change cannot be undone, so that the process must be replaced."""
        self.left_alone = False
        """Whether only the current folder is restored after the running call."""
        self._opened = -1
        self._lasting: list[Process] = []
        """Processes of initializers, which are not ended after a call."""
        self._open()

    def _open(self) -> None:
        if self._opened >= 0:
            os.close(self._opened)
            self._opened = -1
        with suppress(OSError):
            self._opened = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)

    def keep(self, except_for: Iterable[str] = ()) -> None:
        """See `NotIsolated.keep`."""
        super().keep(except_for)
        self._open()
        self._lasting = descendants()

    def _go_back(self) -> None:
        try:
            os.fchdir(self._opened)  # faster than by its name
        except OSError:
            super()._go_back()

    def __exit__(self, *exc: object) -> None:
        try:
            if have_children() and self._end_children():
                self.spoilt = True
        finally:
            left_alone, self.left_alone = self.left_alone, False
            if left_alone:
                self._go_back()
            elif not self.undo():
                self.spoilt = True

    def _end_children(self) -> bool:
        lasting = [*self._lasting, *supervised_slots()]
        return end_descendants(grace=0, except_for=lasting, spare=helpers())

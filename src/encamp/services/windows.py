"""Terminal windows on an X display with the consoles of servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from encamp.engines.kit.interpreter import python_command
from encamp.errors import BadJob

if TYPE_CHECKING:
    from encamp.cluster.errands import Errands
    from encamp.loop.pump import Pump

_XTERM = "xterm"
_APART = '"$@" </dev/null & '
"""So that a window is nobody's child, and stays when the program has ended."""


@dataclass(frozen=True)
class Windows:
    """Where windows are opened, how large they are, and how many seconds lie between two."""

    display: str
    geometry: str
    delay: float

    def checked(self) -> Windows:
        """The same; raises `BadJob` where none can be opened."""
        if shutil.which(_XTERM) is None:
            raise BadJob("display", "there is no xterm on this host; install it (Debian: xterm)")
        python_command()
        return self

    def command(self, name: str, host: str) -> list[str]:
        """The words that open the window of a server's console."""
        console = [*python_command(), "-m", "encamp", "attach", "--program", str(os.getpid()), name]
        size = ["-geometry", self.geometry] if self.geometry else []
        title = ["-T", f"{host}: {name}", "-n", host]
        return [_XTERM, "-display", self.display, *title, *size, "-hold", "-e", *console]


class Opener:
    """Opens windows one after the other, beside the pump."""

    def __init__(self, pump: Pump, errands: Errands) -> None:
        self._pump, self._errands = pump, errands
        self._free = 0.0
        """When the next one may be opened."""

    def open(self, windows: Windows, name: str, host: str) -> None:
        """Open a server's window; returns at once."""
        command = ["/bin/sh", "-c", _APART, "sh", *windows.command(name, host)]

        def start() -> None:
            subprocess.run(command, check=False, start_new_session=True)

        now = time.monotonic()
        at = max(now, self._free)
        self._free = at + windows.delay
        self._pump.later(at - now, lambda: self._errands.run(start, lambda *_: None))

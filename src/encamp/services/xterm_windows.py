"""Terminal windows on an X display with the consoles of servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from encamp.engines.kit.own_interpreter import python_command
from encamp.errors import BadJob
from encamp.timeouts import GREETS

if TYPE_CHECKING:
    from encamp.cluster.disk_thread import DiskThread
    from encamp.loop.pump import Pump

_XTERM = "xterm"
_APART = '"$@" </dev/null & '
"""Starts a window that is not our child process, so that it stays when the program ends."""


_DISPLAY = re.compile(r"[^\s:]*::?[0-9]+(\.[0-9]+)?")
_GEOMETRY = re.compile(r"=?([0-9]+x[0-9]+)?([+-]-?[0-9]+[+-]-?[0-9]+)?")
_OPENS = """
import ctypes, sys
try:
    x = ctypes.CDLL("libX11.so.6")
except OSError:
    sys.exit()  # xterm knows a different one
x.XOpenDisplay.restype = ctypes.c_void_p
sys.exit(not x.XOpenDisplay(sys.argv[1].encode()))
"""


@dataclass(frozen=True)
class Windows:
    """The X display of windows, their geometry, and the seconds between opening two of them."""

    display: str
    geometry: str
    delay: float

    @classmethod
    def of(cls, display: object, geometry: object, delay: float) -> Windows | None:
        """The windows that are wanted, None without any. Raises `BadJob` if none can open."""
        if display is None or display is False:
            return None
        if display is True and not (display := os.environ.get("DISPLAY", "")):
            raise BadJob("display", "DISPLAY is not set; name a display, like ':0'")
        if not (isinstance(display, str) and _DISPLAY.fullmatch(display)):
            why = f"must be the name of an X display, like ':0', True or False, not {display!r}"
            raise BadJob("display", why)
        if not (isinstance(geometry, str) and _GEOMETRY.fullmatch(geometry)):
            why = f"must be a size and place like '80x24' or '80x24+0+0', not {geometry!r}"
            raise BadJob("window", why)
        if shutil.which(_XTERM) is None:
            raise BadJob("display", "there is no xterm on this host; install it (Debian: xterm)")
        _check_opens(display)
        return cls(display, geometry, delay)

    def command(self, name: str, host: str) -> list[str]:
        """The words that open the window of a server's console."""
        console = [*python_command(), "-m", "encamp", "attach", "--program", str(os.getpid()), name]
        size = ["-geometry", self.geometry] if self.geometry else []
        title = ["-T", f"{host}: {name}", "-n", host]
        return [_XTERM, "-display", self.display, *title, *size, "-hold", "-e", *console]


def _check_opens(display: str) -> None:
    """Raise `BadJob` if an X display accepts no client of this user."""
    command = [*python_command(), "-c", _OPENS, display]
    try:
        tried = subprocess.run(command, capture_output=True, timeout=GREETS, check=False)
        why = "cannot be opened" if tried.returncode else ""
    except subprocess.TimeoutExpired:
        why = f"has not answered within {GREETS:g} s"
    if why:
        raise BadJob(
            "display",
            f"the X display {display!r} {why}; check that its server runs and that you may use it "
            f"(xset -display {display} q)",
        )


class Opener:
    """Opens windows one after the other, in a different thread than the pump's."""

    def __init__(self, pump: Pump, disk_thread: DiskThread) -> None:
        self._pump, self._disk_thread = pump, disk_thread
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
        self._pump.call_later(at - now, lambda: self._disk_thread.run(start, lambda *_: None))

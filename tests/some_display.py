"""An X display that nobody sees."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from conftest import need


@contextmanager
def x_display() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its name, and its server."""
    need("Xvfb", shutil.which("Xvfb") is not None)
    read, write = os.pipe()
    line = ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x400x24", "-nolisten", "tcp"]
    with subprocess.Popen(line, pass_fds=[write], stderr=subprocess.DEVNULL) as server:
        os.close(write)
        try:
            with os.fdopen(read) as output:
                name = f":{output.readline().strip()}"
            yield name, server
        finally:
            server.kill()

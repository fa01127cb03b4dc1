"""An ipyparallel cluster that the engine starts: a controller here, engines on hosts.

All of it ends with this program, even if that is killed. Engines get their connection file through
standard input, not through a shared disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from encamp.engines.kit.hostfile import HostLine
from encamp.engines.kit.own_interpreter import python_command
from encamp.engines.kit.ssh import READY, RemotePrograms, address_towards_hosts
from encamp.timeouts import AGENT_ENDS

_HERE = HostLine("localhost", 1)
_PREFIX = "encamp-ipyparallel-"
_FILES, _FOR_ENGINES = "security", "ipcontroller-engine.json"
"""The file below a controller's folder in which it writes how engines connect to it."""


class OwnCluster:
    """A controller on this host, and a number of engines on each of some hosts.

    Raises `EngineUnavailable`.
    """

    def __init__(self, engines: Sequence[tuple[HostLine, int]], within: float) -> None:
        hosts = [host for host, _ in engines]
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._programs: list[RemotePrograms] = []
        try:
            address = address_towards_hosts(hosts)
            self._run([_HERE], [{"controller": str(self._folder), "address": address}], within)
            connection = json.loads((self._folder / _FILES / _FOR_ENGINES).read_bytes())
            orders = [{"connection": connection, "engines": count} for _, count in engines]
            self._run(hosts, orders, within)
        except BaseException:
            self.close()
            raise

    @property
    def connection_file(self) -> str:
        """The file that a client needs to connect."""
        return str(self._folder / _FILES / "ipcontroller-client.json")

    def close(self) -> None:
        """End the controller and the engines; blocks until they have ended."""
        for programs in reversed(self._programs):
            programs.close()
        self._programs = []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, hosts: Sequence[HostLine], orders: list[dict[str, Any]], within: float) -> None:
        lines = [json.dumps(order) for order in orders]
        self._programs.append(RemotePrograms("ipyparallel", __name__, hosts, lines, within))


def _serve(order: dict[str, Any]) -> None:
    """Run a controller, or engines, until the standard input ends or all of them have ended."""
    with ExitStack() as stack:
        if "controller" in order:
            folder = stack.enter_context(_removed(Path(order["controller"])))
            processes = [_controller(folder, order["address"])]
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX)))
            file = folder / _FOR_ENGINES
            file.touch(0o600)
            file.write_text(json.dumps(order["connection"]))
            option = f"--file={file}"
            processes = [_started(folder, "engine", option) for _ in range(order["engines"])]
        os.write(1, READY)
        over = threading.Event()
        for wait in (lambda: [process.wait() for process in processes], sys.stdin.read):
            threading.Thread(target=_then, args=(wait, over), daemon=True).start()
        over.wait()
        for process in processes:
            _end(process)


@contextmanager
def _removed(folder: Path) -> Iterator[Path]:
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _controller(folder: Path, address: str) -> subprocess.Popen[bytes]:
    """Start a controller; blocks until it has written how to connect to it."""
    where = (f"--profile-dir={folder}", f"--ip={address}", f"--location={address}")
    process = _started(folder, "controller", *where, "--IPController.enable_curve=True")
    while process.poll() is None and not _complete(folder / _FILES / _FOR_ENGINES):
        time.sleep(0.02)
    return process


def _complete(file: Path) -> bool:
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _started(folder: Path, what: str, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*python_command(), "-m", f"ipyparallel.{what}", *options],
        stdin=subprocess.DEVNULL,
        stdout=2,
        cwd="/",
        env={**os.environ, "IPYTHONDIR": str(folder)},
    )


def _then(wait: Callable[[], object], over: threading.Event) -> None:
    wait()
    over.set()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and its children; a controller asked to end while it starts leaves some."""
    process.send_signal(signal.SIGSTOP)  # so that it starts no more children
    below: list[psutil.Process] = []
    with suppress(psutil.Error):  # it has ended
        program = psutil.Process(process.pid)
        until = time.monotonic() + AGENT_ENDS
        while program.status() not in _STOPPED and time.monotonic() < until:
            time.sleep(0.001)
        below = program.children(recursive=True)
    process.kill()
    process.wait()
    for child in below:
        with suppress(psutil.Error):
            child.kill()


_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)


if __name__ == "__main__":
    _serve(json.loads(sys.stdin.readline()))

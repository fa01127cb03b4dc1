"""The process of a slot as its supervisor sees it: started, spoken to through sockets, ended."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import msgspec

from encamp.agent import ledger
from encamp.agent.child import KEPT_OUTPUT, Birth
from encamp.agent.processes import end_descendants, end_marked
from encamp.engines.foreign import foreign
from encamp.wire import Reader, Writer

GRACE = 2.0
"""Seconds that a command has to end when it is asked to."""
STOP_WITHIN = GRACE + 1.0
"""Seconds between asking a slot to stop and killing it."""
MARK = "ENCAMP_SLOT"
"""Environment variable that all processes of a slot have, to be found by if the slot crashes."""

_START = """\
import sys, base64
sys.path.append(sys.argv[1])
from encamp.engines.foreign import foreign
from encamp.agent.child import main
main(base64.b64decode(sys.argv[2]))
"""
_PACKAGE = str(Path(__file__).parents[2])
"""Where the slot finds encamp if it is not installed there."""


class SlotProcess:
    """One slot's process; belongs to one thread at a time.

    ``birth`` says what it is; its descriptors are filled in here. What it prints goes to a file
    that has no name, if ``birth.capture`` says so, or where this process prints.
    """

    def __init__(self, birth: Birth) -> None:
        self.birth = birth
        self.runs = 0
        """Messages with calls that were sent to it."""
        self.results = 0
        """Results that have come from it."""
        self.ledger = ledger.create()
        self._mark = token_hex(8)
        self._output = tempfile.TemporaryFile() if birth.capture else None  # noqa: SIM115
        ours = self._start()
        self.data, self.control = ours
        self.exit_fd = os.pidfd_open(self._process.pid)
        """Readable when the process has ended, pidfd_open(2)."""
        for end in ours:
            end.setblocking(False)
        self.reader, self.writer = Reader(self.data), Writer(self.data)
        self.control_reader, self.control_writer = Reader(self.control), Writer(self.control)

    def _start(self) -> tuple[socket.socket, socket.socket]:
        data, its_data = socket.socketpair()
        control, its_control = socket.socketpair()
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        fds = [its_data.fileno(), its_control.fileno(), wake, self.ledger]
        names = ("data", "control", "wake", "ledger")
        birth = msgspec.structs.replace(self.birth, **dict(zip(names, fds, strict=True)))
        orders = base64.b64encode(msgspec.msgpack.encode(birth)).decode()
        if self._output is not None:
            os.set_blocking(self._output.fileno(), True)
            _append(self._output.fileno())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, _PACKAGE, orders],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,
                env={**slot_environment(), MARK: self._mark},
            )
        except OSError:
            data.close()
            control.close()
            os.close(self.ledger)
            if self._output is not None:
                self._output.close()
            raise
        finally:
            its_data.close()
            its_control.close()
            os.close(wake)
        return data, control

    @property
    def pid(self) -> int:
        """Process id of the slot."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def has_begun(self) -> bool:
        """Whether it has begun any call."""
        return ledger.begun(self.ledger) > 0

    @property
    def in_a_call(self) -> bool:
        """Whether it has begun a call of which no result has come."""
        return ledger.begun(self.ledger) > self.results

    def ended(self) -> int | None:
        """Wait for a process that has ended, and end what it has left behind; its exit code."""
        exit_code = self._process.wait()
        if exit_code or self.in_a_call:
            end_marked(MARK, self._mark)
        self.close()
        return exit_code

    def printed(self) -> bytes:
        """The end of what the running task has printed."""
        if self._output is None:
            return b""
        fd = self._output.fileno()
        size = os.fstat(fd).st_size
        start = max(0, size - KEPT_OUTPUT)
        return os.pread(fd, size - start, start)

    def ask_to_stop(self) -> None:
        """Interrupt what runs by `Stopped`; the process ends when it has cleared up."""
        if self.alive:
            self._process.terminate()

    def kill(self) -> None:
        """End the process and everything that it started; returns when they are gone."""
        if self.alive:
            self._process.send_signal(signal.SIGSTOP)  # so that it starts nothing more
            end_descendants(0, self.pid)
            self._process.kill()
        self._process.wait()

    def stop(self, within: float = STOP_WITHIN) -> bool:
        """End the process and everything that it started; returns when they are gone.

        True if it has ended by itself, and cleared up. The running call is interrupted by
        `Stopped`; the process is killed if that does not help.
        May be called twice.
        """
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
        self.kill()
        well = self._process.returncode == 0
        if not well:
            end_marked(MARK, self._mark)
        self.close()
        return well

    def close(self) -> None:
        """Let go of the sockets; may be called twice."""
        self.data.close()
        self.control.close()
        self.writer.close()
        if self.exit_fd >= 0:
            os.close(self.exit_fd)
            os.close(self.ledger)
            self.exit_fd = -1
        if self._output is not None:
            self._output.close()
            self._output = None


def slot_environment() -> dict[str, str]:
    """This process's environment, less what would make slots believe they were such."""
    return {name: text for name, text in os.environ.items() if not foreign(name)}


def _append(fd: int) -> None:
    """Let whatever is written to ``fd`` go to the file's end, also after it was emptied."""
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)

"""One process of a slot, a child of its supervisor: start it, exchange messages, end it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from functools import cached_property
from secrets import token_hex

import msgspec

from encamp import slurm
from encamp.agent import slot_interpreter
from encamp.agent.init_command import environment_after
from encamp.engines.kit.closed_streams import open_standard_streams
from encamp.engines.kit.variables_not_inherited import not_inherited
from encamp.engines.kit.wait_for_process import Sentinel
from encamp.slot import ledger
from encamp.slot.isolation.process_tree import end_descendants, end_marked
from encamp.slot.main import SlotSettings
from encamp.slot.numerical_threads import of_new_slot
from encamp.slot.open_files_limit import files_of_others, need_files
from encamp.slot.printed_output import kept_output
from encamp.slot.shared_memory import Cells
from encamp.slot.slot_command import slot_command
from encamp.timeouts import ENDS
from encamp.wire.frames import Reader, Writer
from encamp.wire.wait_for_descriptor import readable

_MAY_PASS = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}
REFUSED = (0.05, 0.2, 0.8, 2.0)
"""Seconds between retries while the system refuses to start a process."""
MARK = "ENCAMP_SLOT"
"""Environment variable of all processes of a slot, to find them if the slot crashes."""


class ChildProcess:
    """One process of a slot, from its start to its end; for one thread at a time.

    The descriptors in its ``settings`` are filled in here. Its output goes to an unnamed file with
    ``settings.capture``, and otherwise to this process's output.
    """

    def __init__(self, settings: SlotSettings) -> None:
        self.settings = settings
        self.runs = 0
        """Messages with calls that were sent to it."""
        self.results = 0
        """Results that have arrived from it."""
        self.read = 0
        """Messages that have arrived on the socket ``data``, and were forwarded."""
        self.talks = False
        """Whether messages may also arrive in a cell, see `shared_memory`."""
        self.last_note = b""
        """What `noted` was when it had ended."""
        self._mark = token_hex(8)
        self._unknown = False
        """Whether its exit status is unknown."""
        self.start_failure: str | None = None
        """The process's output, if it has ended before it was ready for calls."""
        open_standard_streams()
        need_files(1)
        with ExitStack() as undo:
            self._begin(undo)
            undo.pop_all()
        for end in (self.data, self.control):
            end.setblocking(False)
        self.reader, self.writer = Reader(self.data), Writer(self.data)
        self.control_reader, self.control_writer = Reader(self.control), Writer(self.control)

    def _begin(self, undo: ExitStack) -> None:
        """Start the process; closes what it has opened if that fails."""
        self.ledger = ledger.create()
        undo.callback(os.close, self.ledger)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        undo.callback(self._output.close)
        # Output is appended, even after the file was emptied.
        fcntl.fcntl(self._output, fcntl.F_SETFL, os.O_APPEND | os.O_RDWR)
        self.data, its_data = socket.socketpair()
        self.control, its_control = socket.socketpair()
        its = [its_data.detach(), its_control.detach()]
        undo.callback(self.data.close)
        undo.callback(self.control.close)
        try:
            if not self.settings.capture:
                its += [os.dup(1), os.dup(2)]
            self._start([*its, self.ledger])
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self._sentinel = Sentinel(self.pid)
        finally:
            for fd in its:
                os.close(fd)

    def _start(self, fds: list[int]) -> None:
        data, control, *streams, own_ledger = fds
        settings = msgspec.structs.replace(
            self.settings,
            data=data,
            control=control,
            ledger=own_ledger,
            streams=streams,
            files=files_of_others(),
        )
        environment = environment_after(self.settings.init_command, slot_environment())
        interpreter = self.settings.interpreter and slot_interpreter.found(
            self.settings.interpreter, environment
        )
        # Its output while it starts is always kept, for the error message if it cannot start.
        self._process = subprocess.Popen(
            slot_command(msgspec.msgpack.encode(settings), interpreter),
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
            env={
                **environment,
                **of_new_slot(self.settings.threads, environment),
                MARK: self._mark,
            },
        )

    @property
    def exit_fd(self) -> int:
        """A descriptor that is readable when the process has ended."""
        return self._sentinel.fileno()

    @property
    def was_ready(self) -> bool:
        """Whether it has ever been ready for calls, even if it has ended since."""
        return ledger.is_open(self.ledger)

    @property
    def pid(self) -> int:
        """Process id of the slot."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._is_over()

    @property
    def exit_code(self) -> int | None:
        """The exit code as in `subprocess`; None while it runs, or if it is unknown.

        It is unknown if this process ignores SIGCHLD, or waits for any child.
        """
        return None if self._unknown else self._process.returncode

    def _is_over(self) -> bool:
        if self._process.returncode is None:
            try:
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                    return False
            except ChildProcessError:
                self._unknown = True  # Popen would report 0
            self._process.wait()
        return True

    def _wait(self, within: float | None = None) -> bool:
        """Wait for the end; returns False on timeout."""
        if self._process.returncode is None:
            readable(self._sentinel, within)
        return self._is_over()

    @cached_property
    def cells(self) -> Cells:
        """The cells of small messages; not after its end."""
        self.talks = True
        return Cells.of(self.ledger)

    @property
    def has_begun(self) -> bool:
        """Whether it has started any call."""
        return ledger.begun(self.ledger) > 0

    def begun(self, call: int) -> bool:
        """Whether it has started the call of this number, from 1 on."""
        return ledger.begun(self.ledger) >= call

    def noted(self) -> bytes:
        """The process's note for the supervisor; empty if there is none."""
        return ledger.noted(self.ledger) if self.exit_fd >= 0 else b""

    @property
    def in_a_call(self) -> bool:
        """Whether it has started a call whose result has not arrived."""
        return ledger.begun(self.ledger) > self.results

    @property
    def mark(self) -> tuple[int, int]:
        """The progress that its call has noted."""
        return ledger.marked(self.ledger)

    def ended(self) -> int | None:
        """Wait for a process that has ended, and end its children; returns its exit code."""
        self._wait()
        left_something = self.exit_code != 0 or self.in_a_call
        self.close()  # first: finding processes needs descriptors, and none may be left
        if left_something:
            end_marked(MARK, self._mark)
        return self.exit_code

    def printed(self) -> bytes:
        """The captured output of the running task."""
        return kept_output(self._output.fileno(), self.settings.output)

    def ask_to_stop(self) -> None:
        """Interrupt the call with `Stopped`; the process ends after its cleanup.

        A process that was stopped by SIGSTOP is continued, so that it sees this.
        """
        if self.alive:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process and all its descendants; returns when they have ended."""
        if self.alive:
            self._process.send_signal(signal.SIGSTOP)  # so that it starts no more processes
            end_descendants(0, self.pid)
            self._process.kill()
        self._wait()

    def stop(self, within: float = ENDS) -> bool:
        """End the process and all its descendants; returns when they have ended.

        True if it has ended on its own, with its cleanup. The running call is interrupted by
        `Stopped`; the process is killed if that does not help. Idempotent.
        """
        self.ask_to_stop()
        self._wait(within)
        self.kill()
        well = self.exit_code == 0
        self.close()
        if not well:
            end_marked(MARK, self._mark)
        return well

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        self.data.close()
        self.control.close()
        self.writer.close()
        if self.exit_fd >= 0:
            if not self.was_ready:
                self.start_failure = last_words(self.printed())
            self.last_note = self.noted()
            self._sentinel.close()
            os.close(self.ledger)
            self._output.close()


def slot_environment() -> dict[str, str]:
    """This process's environment, without variables that only the process itself may have."""
    return slurm.without_step({k: text for k, text in os.environ.items() if not not_inherited(k)})


def may_pass(exc: BaseException) -> bool:
    """Whether the system refused to start a process for a reason that may soon pass."""
    return isinstance(exc, OSError) and exc.errno in _MAY_PASS


def last_words(text: bytes) -> str:
    """The most informative line of a dead process's output: Python's error, or the last line."""
    lines = text.decode("utf-8", "replace").strip().splitlines()
    fatal = [line for line in lines if line.startswith("Fatal Python error")]
    return (fatal or lines[-1:] or [""])[0][:200]

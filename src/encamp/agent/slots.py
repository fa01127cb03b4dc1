"""Slots as their supervisor sees them: processes to hand a function to, watch, and kill.

A slot gives what a thread or a shared worker process cannot: a current folder of its own, output
of its own, an end by time limit, and a crash that harms nobody else. Any process may be a
supervisor, also inside a Dask worker's thread or an ipyparallel engine.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from secrets import token_hex
from typing import Any

from encamp.agent.child import Done, Raised, Request, Taken
from encamp.agent.processes import end_descendants, end_marked

GRACE = 2.0
"""Seconds that a command has to end when it is asked to."""
STOP_WITHIN = GRACE + 1.0
"""Seconds between asking a slot to stop and killing it."""
MARK = "ENCAMP_SLOT"
"""Environment variable that all processes of a slot have, to be found by if the slot crashes."""

_START = """\
import sys
sys.path.append(sys.argv[2])
from encamp.agent.child import main
main(int(sys.argv[1]), own_mounts=len(sys.argv) > 3)
"""
_PACKAGE = str(Path(__file__).parents[2])
"""Where the slot finds encamp if it is not installed there."""


class SlotLost(Exception):
    """The slot's process ended while it ran something; ``exit_code`` as subprocess gives it."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _NotTaken(Exception):
    """The slot ended before it took the request."""


class Slot:
    """One slot; belongs to one thread at a time.

    It keeps the modules that it has imported, so it is for one ``batch`` of work, whose code does
    not change. With ``own_mounts`` it may mount overlays even where its user may not.
    """

    def __init__(self, *, batch: str = "", own_mounts: bool = False) -> None:
        self.batch = batch
        self.own_mounts = own_mounts
        extra = ["own mounts"] if own_mounts else []
        self._mark = token_hex(8)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, str(theirs.fileno()), _PACKAGE, *extra],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**_environment(), MARK: self._mark},
            )
            self._pipe = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """Process id of the slot."""
        return self._process.pid

    def run(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        sys_path: tuple[str, ...] = (),
        tick: float,
        on_message: Callable[[object], None],
        on_tick: Callable[[], None],
    ) -> Done | Raised:
        """Run ``function(*args)`` in the slot and wait for it.

        ``on_message`` gets what the function tells; ``on_tick`` is called at least every ``tick``
        seconds. Either may raise, which stops the slot; so does KeyboardInterrupt. Raises
        `SlotLost` if the slot's process dies.
        """
        request = Request(pickle.dumps((function, args)), sys_path)
        try:
            self._send(request)
            return self._wait(tick, on_message, on_tick)
        except BaseException:
            self.stop()
            raise

    def _send(self, request: Request) -> None:
        try:
            self._pipe.send(request)
        except OSError:
            raise _NotTaken from None

    def _wait(
        self, tick: float, on_message: Callable[[object], None], on_tick: Callable[[], None]
    ) -> Done | Raised:
        next_tick = time.monotonic() + tick
        taken = False
        while True:
            try:
                if self._pipe.poll(max(0.0, next_tick - time.monotonic())):
                    message = self._pipe.recv()
                    if isinstance(message, Done | Raised):
                        return message
                    taken = taken or isinstance(message, Taken)
                    on_message(message)
            except (EOFError, ConnectionResetError):
                raise self._lost(taken) from None
            if time.monotonic() >= next_tick:
                if not self.alive and not self._pipe.poll(0):
                    raise self._lost(taken)  # its end of the socket lives on in a child
                on_tick()
                next_tick = time.monotonic() + tick

    def _lost(self, taken: bool) -> Exception:
        exit_code = self._process.wait()
        end_marked(MARK, self._mark)
        return SlotLost(exit_code) if taken else _NotTaken()

    def stop(self) -> None:
        """End the slot and everything that it started; returns when they are gone.

        The slot's function is interrupted by `Stopped`; it is killed if that does not help.
        """
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_WITHIN)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)  # so that it starts nothing more
            end_descendants(0, self.pid)
            self._process.kill()
        self._process.wait()
        self._pipe.close()

    @property
    def alive(self) -> bool:
        """Whether the slot can take a request."""
        return self._process.poll() is None


def _environment() -> dict[str, str]:
    """The supervisor's environment, less what would make a slot believe it were an MPI rank."""
    foreign = ("PMI", "PMIX_", "HYDI_", "MPIR_", "OMPI_", "PRTE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


class Slots:
    """The slots of this process: started when needed, used again, as many as run at once."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, Slot]] = []  # with the thread that had it last
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, *, batch: str = "", own_mounts: bool = False) -> Iterator[Slot]:
        """A slot for this thread alone; it goes back afterwards unless it died.

        Idle slots of another batch are stopped: their modules may be out of date.
        """
        self._stop_others(batch)
        slot = self._take(batch, own_mounts)
        try:
            yield slot
        finally:
            if slot.alive:
                with self._lock:
                    self._idle.append((threading.get_ident(), slot))

    def _stop_others(self, batch: str) -> None:
        with self._lock:
            others = [slot for _, slot in self._idle if slot.batch != batch]
            self._idle = [idle for idle in self._idle if idle[1].batch == batch]
        for slot in others:
            slot.stop()

    def _take(self, batch: str, own_mounts: bool) -> Slot:
        with self._lock:
            # The thread's own last slot comes first, so that a thread and a slot stay together.
            self._idle.sort(key=lambda idle: idle[0] == threading.get_ident())
            for number in reversed(range(len(self._idle))):
                if self._idle[number][1].own_mounts == own_mounts:
                    _, slot = self._idle.pop(number)
                    if slot.alive:
                        return slot
        return Slot(batch=batch, own_mounts=own_mounts)

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        batch: str = "",
        own_mounts: bool = False,
        **options: Any,
    ) -> Done | Raised:
        """`Slot.run` in any slot; again in another one if an idle slot was just ending."""
        while True:
            with self.borrow(batch=batch, own_mounts=own_mounts) as slot:
                try:
                    return slot.run(function, args, **options)
                except _NotTaken:
                    continue

    def close(self) -> None:
        """Stop the idle slots; may be called twice."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, slot in idle:
            slot.stop()


_here: Slots | None = None
_pid = 0


def slots_here() -> Slots:
    """The slots of this process (of this one: a forked child has none of its parent's)."""
    global _here, _pid
    if _here is None or _pid != os.getpid():
        _here, _pid = Slots(), os.getpid()
    return _here

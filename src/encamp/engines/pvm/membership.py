"""This process as a task of a virtual machine: what PVM reports, and calls that may fail.

A process is one PVM task, however many clusters it has: their engines share the `Membership`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from encamp.engines.pvm import libpvm
from encamp.engines.pvm.libpvm import PVMError
from encamp.engines.pvm.machine import Machine, find_machine
from encamp.errors import EngineFailed, EngineUnavailable

ENDED, ADDED, PRINTED = range(11, 14)
"""Tags of the daemons' messages."""
_AT_ONCE = 256
_FORKED = "this process was forked from one that is in a virtual machine"
_NOT_FORKED = "fork before the first cluster is made, or start the process with subprocess"


class Member(Protocol):
    """An engine of this process. Both methods may be called by any thread."""

    def reported(self, tag: int, values: list[int], text: bytes) -> None:
        """PVM reports that a task has ended or printed something, or that there are new hosts."""

    def wake(self) -> None:
        """Ask for the membership to be checked soon."""


class Membership:
    """This process as a task of a virtual machine. ``lock`` is held for every call of libpvm.

    ``fd`` becomes readable when PVM reports something.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine, self.lock = machine, threading.RLock()
        self.process = os.getpid()
        self.failure = ""
        """Why the machine has ended."""
        self.engines: list[Member] = []
        self.stirred = False
        """Whether libpvm may have messages that ``fd`` does not show."""
        self._left = False
        with machine.known():
            self.tid = libpvm.mytid()
        libpvm.setopt(libpvm.AUTO_ERR, 0)
        libpvm.setopt(libpvm.ROUTE, libpvm.DONT_ROUTE)
        while libpvm.nrecv():
            pass  # messages that libpvm has kept of a machine that this process was in before
        self.fd = own_descriptor()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Hold the lock for calls of libpvm, which may read other messages in the meantime.

        Raises `EngineFailed` if one of the calls fails, or none is possible: after the end of a
        machine, libpvm would join a different one.
        """
        with self.lock:
            if self.failure or self._left:
                raise EngineFailed("pvm", self.failure or "this process has left the machine")
            try:
                yield
            except PVMError as exc:
                self._note(exc)
                raise EngineFailed("pvm", str(exc)) from exc
            finally:
                self.drain()

    def drain(self) -> None:
        """Pass on to all engines what PVM has reported, up to a number of messages."""
        with self.lock:
            if self.failure or self._left:
                return
            try:
                for _ in range(_AT_ONCE):
                    buffer = libpvm.nrecv()
                    if not buffer:
                        self.stirred = False
                        return
                    with suppress(PVMError):  # any task of the machine may send messages
                        self._take(*libpvm.bufinfo(buffer))
                self.stirred = True
                self._wake_all()
            except PVMError as exc:
                self._note(exc)

    def _take(self, size: int, tag: int, _: int) -> None:
        if tag not in (ENDED, ADDED, PRINTED):
            return
        values = libpvm.unpack_ints(size // 4 if tag != PRINTED else 2)
        text = libpvm.unpack(max(0, min(values[1], size))) if tag == PRINTED else b""
        if values:
            for engine in self.engines:
                engine.reported(tag, values, text)

    def _note(self, exc: PVMError) -> None:
        """Record whether an error means that the machine has ended."""
        if exc.code == libpvm.SYS_ERR:
            self.failure = self.failure or str(exc)
            self.stirred = False
            self._wake_all()

    def _wake_all(self) -> None:
        for engine in self.engines:
            engine.wake()

    def leave(self, engine: Member) -> None:
        """Remove an engine; after the last one, this process leaves the machine."""
        with self.lock:
            if engine in self.engines:
                self.engines.remove(engine)
        self.leave_if_unused()

    def leave_if_unused(self) -> None:
        """Leave the machine if no engine uses it."""
        with self.lock:
            if self.engines or self._left or self.process != os.getpid():
                return
            self._left = True
            with suppress(PVMError):
                libpvm.leave()
            self.machine.close()


def own_descriptor() -> int:
    """The descriptor of the daemon's messages, which no child process inherits."""
    (fd,) = libpvm.getfds()
    os.set_inheritable(fd, False)
    return fd


def enrol(machine: Machine) -> Membership:
    """Join a machine. Raises `EngineFailed` if that is not possible."""
    try:
        return Membership(machine)
    except PVMError as exc:
        raise EngineFailed("pvm", str(exc)) from exc


_memberships: list[Membership] = []
"""This process's membership, if it has one."""


def own_membership(which: str | None, address: str | None, usual: str) -> Membership:
    """This process's membership; there can be one at a time, which all of its clusters share."""
    if _memberships:
        member = _memberships[0]
        if member.engines and not member.failure:
            if member.process != os.getpid():  # libpvm would read from the parent's connection
                raise EngineUnavailable("pvm", _FORKED, _NOT_FORKED)
            own = member.machine.own
            if which == ("running" if own else "own"):
                why = f"this process is in {'its own' if own else 'the running'} virtual machine"
                raise EngineUnavailable("pvm", why, "close its other clusters first")
            return member
        _memberships.clear()
    machine = find_machine(which, address, usual)
    try:
        _memberships.append(enrol(machine))
    except BaseException:
        machine.close()
        raise
    return _memberships[0]

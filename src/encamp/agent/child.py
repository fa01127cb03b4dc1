"""What runs in a slot: a process that takes one function after another from its supervisor.

    supervisor                                      slot (this file)
        ── Request(function, arguments) ─────────────►
        ◄── Taken ────────────────────────────────────  runs it
        ◄── anything the function tells (`tell`) ─────
        ◄── Done(value) or Raised(error, text) ───────

The two share a socketpair. When the supervisor dies the socket ends, and so does the slot, with
every process that was started from it.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from encamp.agent.isolation import put_back
from encamp.agent.processes import adopt_orphans, end_descendants
from encamp.storage.overlay import enter_namespace

IDLE_LIMIT = 60.0
"""Seconds after which a slot that nobody uses ends itself."""


@dataclass(frozen=True)
class Request:
    """A function to run, pickled with its arguments, and folders to import from."""

    work: bytes
    sys_path: tuple[str, ...]


@dataclass(frozen=True)
class Taken:
    """The slot has read the request: from here on it may have had effects."""


@dataclass(frozen=True)
class Done:
    value: Any


@dataclass(frozen=True)
class Raised:
    """What the function raised, and how it looks in a traceback."""

    error: BaseException
    text: str


class Stopped(BaseException):
    """Raised in the running function when the supervisor asks the slot to stop (SIGTERM)."""


class _State:
    """The one slot that this process is, if it is one."""

    supervisor: Connection | None = None
    stopping = False
    orphaned = False
    last_words: Callable[[], None] | None = None


def tell(message: object) -> None:
    """Send something to the supervisor from the function that runs; nothing outside a slot."""
    if _State.supervisor is not None:
        _State.supervisor.send(message)


def at_supervisors_end(last_words: Callable[[], None] | None) -> None:
    """Have a function called if the supervisor dies while something runs here (None: none)."""
    _State.last_words = last_words


def main(fd: int, *, own_mounts: bool = False) -> None:
    """Serve the supervisor at the other end of socket ``fd`` until it closes or nothing comes.

    With ``own_mounts`` the process may mount overlays without being root, see `overlay`.
    """
    if own_mounts:
        enter_namespace()  # before there is another thread; without it inputs come another way
    os.set_inheritable(fd, False)
    # A handler, not SIG_IGN, which every command that is started here would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, _stop)
    os.chdir("/")
    adopt_orphans()
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True, errors="surrogateescape")  # type: ignore[union-attr]
    supervisor = _State.supervisor = Connection(fd)
    threading.Thread(target=_watch, args=(fd,), daemon=True, name="encamp-watch").start()
    with suppress(EOFError, OSError, Stopped):
        while not _State.stopping and supervisor.poll(IDLE_LIMIT):
            request: Request = supervisor.recv()
            supervisor.send(Taken())
            supervisor.send(_run(request))


def _stop(*_: object) -> None:
    _State.stopping = True
    raise Stopped


def _run(request: Request) -> Done | Raised:
    try:
        with put_back():
            sys.path[:0] = [path for path in request.sys_path if path not in sys.path]
            function, args = pickle.loads(request.work)  # noqa: S301 - from our own supervisor
            return Done(function(*args))
    except BaseException as exc:  # noqa: BLE001 - the supervisor decides what it means
        return Raised(portable_error(exc), "".join(traceback.format_exception(exc)))
    finally:
        end_descendants(grace=0)


def portable_error(exc: BaseException) -> BaseException:
    """``exc`` if it survives pickling, else a RuntimeError that says the same."""
    try:
        pickle.loads(pickle.dumps(exc))  # noqa: S301 - our own bytes, to see that they come back
    except Exception:  # noqa: BLE001 - whatever its reduce raises, its text still travels
        return RuntimeError(f"{type(exc).__name__}: {exc}")
    return exc.with_traceback(None)


def orphaned() -> bool:
    """Whether this process was a slot whose supervisor is dead: nobody will use what it does."""
    return _State.orphaned


def _watch(supervisor: int) -> None:
    """Wait for the supervisor's end; then end all that was started here, and this process."""
    poller = select.poll()
    poller.register(supervisor, select.POLLRDHUP)
    poller.poll()
    _State.orphaned = True
    end_descendants(grace=1.0)
    if _State.last_words is not None:
        with suppress(Exception):
            _State.last_words()
    os._exit(1)

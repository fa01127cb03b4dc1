"""The program of a slot's process, which runs calls for its supervisor until that has ended.

    supervisor                                       slot (this file)
        ── data: Run, Message, Location, Answer ───────►   main thread
        ◄─ data: SupervisorMessage, Results, Message, …
        ── control: Recall ─────────────────────────────►  watching thread
        ◄─ control: GivenBack, OutputText ──────────────

When the supervisor dies, the sockets are closed, and the slot ends with all processes that it has
started. A slot's standard output and error are a file that its supervisor can also read.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import msgspec

from encamp.engines.kit.own_interpreter import default_signals
from encamp.errors import Stopped
from encamp.slot.isolation.process_isolation import ProcessIsolation
from encamp.slot.isolation.process_tree import adopt_orphans, end_descendants, helpers
from encamp.slot.ledger import Ledger
from encamp.slot.open_files_limit import limit_files
from encamp.slot.printed_output import Printed
from encamp.slot.shared_memory import USABLE, SlotShortcut
from encamp.slot.slot import Slot
from encamp.slot.sockets import SlotSockets
from encamp.slot.this_process import ThisProcess
from encamp.storage.disk.overlay import enter_namespace
from encamp.storage.import_path import extend_import_path
from encamp.timeouts import GRACE
from encamp.wire.protocol import (
    Exiting,
    encode,
)

_AT_REST = 0.1
"""Seconds without calls after which the function of `this_process.at_rest` is called."""


class SlotSettings(msgspec.Struct, array_like=True):
    """The settings of a slot's process at its start."""

    data: int = -1
    control: int = -1
    ledger: int = -1
    streams: list[int] = []
    """Descriptors for its standard output and error, if not those that it is started with."""
    files: int = 0
    """The slot's limit of open files; its supervisor may have raised its own."""
    number: int = 0
    host: str = ""
    agent: int = 0
    folder: str = "/"
    sys_path: list[str] = []
    own_mounts: bool = False
    idle_limit: float | None = None
    """Seconds without calls after which the slot ends itself; None: it does not."""
    capture: bool = False
    follow: bool = False
    output: int = 1 << 20
    """Bytes of a task's output that are kept: half from the beginning, half from the end."""
    cores: list[int] = []
    """The numbers of its cores; empty: those of its supervisor."""
    threads: dict[str, str] = {}
    """The `numerical_threads.VARIABLES` that the program has set; those set on the host win."""
    init_command: str = ""
    """The command that its supervisor runs before, see `environment_after`."""
    niceness: int = 0
    """A number to add to its supervisor's niceness."""
    interpreter: str = ""
    """The slot's Python interpreter; if empty, its supervisor's."""
    cluster: str = ""
    """See `Orders`."""
    supervisor: bytes = b""
    """See `Slot.supervisor`."""
    modules: list[str] = []
    """Modules of encamp that its calls need."""


def main(encoded: bytes) -> None:
    """Run the supervisor's calls until it has closed the sockets."""
    settings = msgspec.msgpack.decode(encoded, type=SlotSettings)
    for module in settings.modules:
        import_module(module)
    gc.enable()
    default_signals()  # before there is another thread
    if settings.own_mounts:
        enter_namespace()  # before there is another thread; it may fail
    if settings.cores:
        with suppress(OSError):  # the cores may have been taken from this user in the meantime
            os.sched_setaffinity(0, settings.cores)
    if settings.niceness:
        os.nice(settings.niceness)
    for fd in (settings.data, settings.control, settings.ledger):
        os.set_inheritable(fd, False)
    limit_files(settings.files)
    # Not SIG_IGN, which commands that are started here would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, _stop)
    os.register_at_fork(after_in_child=_forked)
    extend_import_path(settings.sys_path)
    with suppress(OSError):
        os.chdir(settings.folder)
    adopt_orphans()
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True, errors="surrogateescape")  # type: ignore[union-attr]
    sockets = SlotSockets(settings.data, settings.control)
    slot = ThisProcess.slot = sockets.slot = Slot(
        settings.number, settings.host, sockets, settings.agent, settings.cluster
    )
    folder = str(Path.cwd()) if settings.folder != "/" else "/"
    slot.supervisor = settings.supervisor
    isolation = ThisProcess.isolation = slot.isolation = ProcessIsolation(folder)
    slot.ledger, slot.can_leave = Ledger(settings.ledger), True
    if settings.host and USABLE:
        sockets.shortcut = SlotShortcut(sockets, slot.ledger.memory)
    if settings.capture:
        slot.ended = Printed(sockets, settings.output, follow=settings.follow).ended
    threading.Thread(target=_watch, args=(sockets,), daemon=True, name="encamp-watch").start()
    atexit.register(_end_all, os.getpid())  # registered first, so it runs after libraries' own
    _print_to(settings.streams)
    gc.freeze()  # objects of loaded modules stay, so collections do not have to visit them
    slot.ledger.open()
    with suppress(EOFError, OSError, Stopped):
        while not (ThisProcess.stopping or isolation.spoilt or slot.leaves):
            if (
                not slot.run_next()
                and not _rest(slot, sockets, settings.idle_limit)
                and settings.idle_limit
            ):
                break
    ThisProcess.stopping = True  # from here, a signal interrupts nothing
    with suppress(EOFError, OSError):
        sockets.wait(0)  # also hand back calls that have arrived meanwhile
        slot.hand_back()
        slot.send_results()
        sockets.send([encode(Exiting(settings.number))])
    _end_all(os.getpid())
    threading.Thread(target=_end_late, daemon=True).start()


def _rest(slot: Slot, sockets: SlotSockets, limit: float | None) -> bool:
    """Wait until something arrives; False if nothing does within the limit in seconds."""
    if ThisProcess.at_rest is not None:
        if _arrived(slot, sockets, _AT_REST):
            return True
        ThisProcess.at_rest()
        ThisProcess.at_rest = None
    return _arrived(slot, sockets, limit)


def _arrived(slot: Slot, sockets: SlotSockets, limit: float | None) -> bool:
    slot.interruptible = True
    try:
        return ThisProcess.stopping or sockets.wait(limit)
    finally:
        slot.interruptible = False


def _end_all(pid: int) -> None:
    """End all child processes of the slot's process, except libraries' helpers."""
    if os.getpid() != pid:
        return
    if ThisProcess.at_end is not None:
        with suppress(Exception):
            ThisProcess.at_end()
    end_descendants(grace=0, spare=helpers())


def _end_late() -> None:
    """End this process after some seconds, even if a thread or a library prevents its exit."""
    time.sleep(GRACE)
    os._exit(1)


def _print_to(streams: list[int]) -> None:
    for fd, own in zip(streams, (1, 2), strict=False):
        os.dup2(fd, own)
        os.close(fd)


def _forked() -> None:
    """In a process that a task has forked, restore the default effects of signals."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(*_: object) -> None:
    if not ThisProcess.stopping:  # a second signal must not interrupt the cleanup
        ThisProcess.stopping = True
        slot = ThisProcess.slot
        if slot is not None:
            slot.stopping = True
        if slot is None or slot.interruptible:
            raise Stopped


def _watch(sockets: SlotSockets) -> None:
    """Serve the control socket; when it is closed, end this process and all that it has started."""
    sockets.watch()
    ThisProcess.orphaned = True
    end_descendants(grace=1.0, spare=helpers())
    if ThisProcess.last_words is not None:
        with suppress(Exception):
            ThisProcess.last_words()
    os._exit(1)

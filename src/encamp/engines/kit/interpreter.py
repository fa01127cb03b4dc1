"""How to start an interpreter like this one: which program, with which flags and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from encamp.errors import NoPython

PACKAGE = str(Path(__file__).parents[3])
"""Where agents find encamp if it is not installed there."""
START = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Python code that runs a module; a folder in which it may be, and its name, follow."""

_CANNOT = {signal.SIGKILL, signal.SIGSTOP}
_PYTHONS_OWN = {signal.SIGPIPE, getattr(signal, "SIGXFSZ", None), getattr(signal, "SIGXFZ", None)}
"""Python itself ignores these, and its subprocesses do not."""


def python_command() -> list[str]:
    """The words that start such a Python; code or a module's name comes next.

    Raises `NoPython` where this process does not know of one.
    """
    return [python_here(), "-P", *interpreter_flags()]


def python_here() -> str:
    """The path of this process's Python, or what `multiprocessing.set_executable` was told."""
    told = _told()
    if told:
        return told
    if getattr(sys, "frozen", False):
        raise NoPython("this program is frozen, so it is not a Python interpreter")
    if sys.executable:
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    usual = Path(sys.exec_prefix, "bin", version)
    if os.access(usual, os.X_OK):
        return str(usual)
    raise NoPython("sys.executable, the path of the interpreter, is empty")


def _told() -> str:
    """What the program has said on purpose, if it has."""
    spawn = sys.modules.get("multiprocessing.spawn")
    told = None if spawn is None else spawn.get_executable()
    path = os.fsdecode(told) if told else ""
    return "" if path == sys.executable else path


def interpreter_flags() -> list[str]:
    """The flags that this process was started with, as far as standard pools pass them on.

    A program that has set `sys.dont_write_bytecode` counts as started with ``-B``: what slots
    compile would lie in its folders, and be stale once a module is changed within a second.
    """
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    added = sys.dont_write_bytecode and not sys.flags.dont_write_bytecode
    return [*flags, "-B"] if added else flags


def default_signals() -> None:
    """Begin as programs expect to: nothing is blocked, nothing is ignored.

    What starts this process may ignore some, as nohup and shells' background jobs do; all that
    this process starts would, too. SIGCHLD is the worst: nobody then learns how a child has ended.
    """
    for number in signal.valid_signals() - _CANNOT - _PYTHONS_OWN:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def command_signals() -> None:
    """What a command needs, whoever has started it: its children's ends, and nothing blocked.

    Signals to end it that are ignored stay so, as nohup and background jobs want it.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def signals_to_restore() -> Callable[[], None] | None:
    """`default_signals` for a child of `subprocess.Popen`; None if there is nothing to do."""
    ignored = {
        number
        for number in signal.valid_signals() - _CANNOT - _PYTHONS_OWN
        if signal.getsignal(number) is signal.SIG_IGN
    }
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return default_signals if ignored or blocked else None

"""How to start an interpreter like this one: which program, with which flags and signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from encamp.errors import NoPython

PACKAGE = str(Path(__file__).parents[3])
"""The folder where agents find encamp if it is not installed on their host."""
START = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Python code that runs a module; its arguments are a folder where it may be, and its name."""

_CANNOT = {signal.SIGKILL, signal.SIGSTOP}
_PYTHONS_OWN = {signal.SIGPIPE, getattr(signal, "SIGXFSZ", None), getattr(signal, "SIGXFZ", None)}
"""Signals that Python ignores, but its child processes should not."""


def python_command() -> list[str]:
    """The words that start such a Python; code or a module's name follows.

    Raises `NoPython` if no interpreter is known.
    """
    return [python_here(), "-P", *interpreter_flags()]


def python_here() -> str:
    """The path of this process's Python, or that of `multiprocessing.set_executable`."""
    given_path = _given_path()
    if given_path:
        return given_path
    if getattr(sys, "frozen", False):
        raise NoPython("this program is frozen, so it is not a Python interpreter")
    if sys.executable:
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    usual = Path(sys.exec_prefix, "bin", version)
    if os.access(usual, os.X_OK):
        return str(usual)
    raise NoPython("sys.executable, the path of the interpreter, is empty")


def _given_path() -> str:
    """The path that the program has set, if it has."""
    spawn = sys.modules.get("multiprocessing.spawn")
    given_path = None if spawn is None else spawn.get_executable()
    path = os.fsdecode(given_path) if given_path else ""
    return "" if path == sys.executable else path


def interpreter_flags() -> list[str]:
    """The interpreter's flags of this process that Python's own pools pass on, too.

    A program that has set `sys.dont_write_bytecode` counts as started with ``-B``: slots would
    write compiled modules into its folders, which are stale if a module changes within a second.
    """
    import subprocess  # imported here, so that slots start faster

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    added = sys.dont_write_bytecode and not sys.flags.dont_write_bytecode
    return [*flags, "-B"] if added else flags


def default_signals() -> None:
    """Reset signals to their defaults, and unblock them.

    The parent may ignore some, as nohup and shells' background jobs do, and child processes would
    inherit that. If SIGCHLD is ignored, exit statuses of children are lost.
    """
    for number in signal.valid_signals() - _CANNOT - _PYTHONS_OWN:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def command_signals() -> None:
    """Reset SIGCHLD to its default, and unblock all signals, for the command.

    Ignored signals that would end it stay ignored, as nohup and background jobs require.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def signals_to_restore() -> Callable[[], None] | None:
    """A function for `subprocess.Popen` that resets signals in a child; None if none is needed."""
    ignored = {
        number
        for number in signal.valid_signals() - _CANNOT - _PYTHONS_OWN
        if signal.getsignal(number) is signal.SIG_IGN
    }
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return default_signals if ignored or blocked else None

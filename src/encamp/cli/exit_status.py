"""The exit status of the command for each way in which it ends, and the message."""

from __future__ import annotations

import errno
import os
import signal
import sys

import click

from encamp.errors import EncampError, InputError, OutOfTime, printable, shown
from encamp.jobs.display.nonblocking_stderr import Screen
from encamp.process_endings import signal_name
from encamp.reports import JobFailed
from encamp.storage.exit_on_signal import Terminated

_GO_ON = "finished tasks stay done; run again to continue"
_NOT_WRITTEN = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
"""Errors of a full or broken output. Those of a file have its name."""


def exit_status(command: click.Command) -> int:
    """Run a command with the command line; returns the exit status."""
    try:
        code = command.main(standalone_mode=False, prog_name="encamp")
    except SystemExit as exc:
        return _ended(exc)
    except click.ClickException as exc:
        exc.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        _print(f"stopped; {_GO_ON}")
        return 128 + signal.SIGINT
    except JobFailed:
        return 1  # the failures are listed already
    except OutOfTime as exc:
        _print(str(exc))
        return os.EX_TEMPFAIL
    except EncampError as exc:
        _print(str(exc))
        return 2 if isinstance(exc, InputError) else 1
    except OSError as exc:  # on encamp's own files; Python shows a script's errors
        _report_os_error(exc, "standard output" if exc.errno in _NOT_WRITTEN else "")
        return 1
    return code if isinstance(code, int) else 0


def _ended(exc: SystemExit) -> int:
    """The exit status after a signal, or of the script."""
    if isinstance(exc, Terminated):
        _print(f"stopped by {signal_name(exc.number)}; {_GO_ON}")
    if exc.code is None or isinstance(exc.code, int):
        return exc.code or 0
    Screen(sys.stderr).write(f"{shown(str(exc.code))}\n")
    return 1


def flushed(code: int) -> int:
    """The exit status, or 1 in place of 0 if standard output cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python's own flush fails, too
        _report_os_error(exc, "standard output")
        return code or 1
    return code


def _report_os_error(exc: OSError, what: str = "") -> None:
    """Report an error of the system, except a closed standard output."""
    if not isinstance(exc, BrokenPipeError):
        what = printable(exc.filename) if exc.filename else what
        where = f"{what}: " if what else ""
        _print(f"{where}{(exc.strerror or str(exc)).lower()}")


def _print(text: str) -> None:
    """Print a message of the command, unless standard error is closed."""
    screen = Screen(sys.stderr)
    screen.write(f"encamp: {shown(text)}\n")
    screen.drain()

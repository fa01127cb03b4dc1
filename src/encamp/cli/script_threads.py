"""Errors of encamp in threads of a script: they end the command as those in its main thread do."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from encamp.errors import EncampError, InputError
from encamp.jobs.run.dry_run import DryRunEnds
from encamp.reports import JobFailed

_ENDS_WITHIN = 0.5
"""Seconds that a thread sleeps before it ends, so that the main thread sees the interrupt first."""


@contextmanager
def errors_of_threads() -> Iterator[None]:
    """Let jobs in threads of a script end it as those in its main thread do.

    A dry run ends it at once. An error of encamp in a thread, such as `JobFailed`, is raised when
    the script has ended, or decides about the exit status if the thread lasts longer; Python itself
    would exit with status 0.
    """
    threads, errors = set(threading.enumerate()), _Errors()
    threading.excepthook = errors.note
    try:
        yield
    except KeyboardInterrupt:
        if errors.dry:
            raise errors.dry[0] from None
        raise
    except SystemExit as exc:
        if exc.code or not errors.failed:
            errors.count = not exc.code
            raise
    finally:
        errors.script_runs = False
        if all(one.daemon or one in threads for one in threading.enumerate()):
            threading.excepthook = errors.usual
    if errors.failed:
        raise errors.failed[0]
    errors.count = True


class _Errors:
    """Errors in threads. Those after the end of the script count when the process ends."""

    def __init__(self) -> None:
        self.usual = threading.excepthook
        self.dry: list[DryRunEnds] = []
        self.failed: list[EncampError] = []
        self.script_runs = True
        self.count = False
        """Whether the script has ended well, so that errors of its threads matter."""
        atexit.register(self._exit)  # runs after all that the script registers

    def note(self, args: threading.ExceptHookArgs) -> None:
        """Instead of `threading.excepthook`."""
        error, main = args.exc_value, threading.main_thread().ident
        if isinstance(error, DryRunEnds) and main is not None and self.script_runs:
            self.dry.append(error)
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(_ENDS_WITHIN)
            return
        if isinstance(error, EncampError):
            self.failed.append(error)
        if not isinstance(error, JobFailed):  # its failures are listed already
            self.usual(args)

    def _exit(self) -> None:
        """End with the exit status of the first error: Python has set its own by now."""
        if self.failed and self.count:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(2 if isinstance(self.failed[0], InputError) else 1)

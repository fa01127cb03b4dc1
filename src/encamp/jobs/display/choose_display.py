"""Chooses the display of a job unless its user names one."""

from __future__ import annotations

import sys

from encamp.jobs.calling_code import called_by_script, in_notebook
from encamp.jobs.progress_interface import Progress, Silent


def progress_here() -> Progress:
    """The command's display, or a display in a notebook.

    Silent if a library runs the job, and standard error is not a terminal.
    """
    if "IPython" in sys.modules:
        from encamp.jobs.display.notebook import InNotebook

        if in_notebook():
            return InNotebook()
    if sys.stderr is None or sys.stderr.closed or not (sys.stderr.isatty() or called_by_script()):
        return Silent()
    from encamp.jobs.display.terminal import console_progress

    return console_progress(quiet=False, dry_run=False)

"""``encamp debug``: a task's folder with its inputs, and a shell or pdb in it."""

from __future__ import annotations

from pathlib import Path

from encamp.cli.run import run_job_file, run_script, running
from encamp.jobs.run.debug_shell import not_found
from encamp.jobs.run_options import Debugged, RunOptions


def debug_command(
    path: Path, task: str, arguments: tuple[str, ...], *, shell: bool, keep: bool, shared: bool
) -> None:
    """Debug a task of a job file, or of a job that a script runs; ends the program.

    Raises `BadJob` if there is no such task.
    """
    wanted = Debugged(task, shell, keep)
    is_script = path.suffix != ".toml"
    with running(RunOptions(debugged=wanted, shared=shared, for_script=is_script)):
        if not is_script:
            run_job_file(path, arguments, None)
        else:
            # An absolute path, since pdb opens it in the task's folder.
            run_script(path.absolute(), arguments, None)
    raise not_found(wanted)

"""``encamp run``: a job file, or a script that runs jobs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from encamp.errors import UnusableInput
from encamp.jobs.console import console_progress
from encamp.jobs.options import Options, current
from encamp.jobs.work import Keep


def run_command(
    path: Path,
    arguments: tuple[str, ...],
    *,
    workers: int | None,
    force: bool,
    dry_run: bool,
    keep: Keep,
    to: str | None,
    quiet: bool,
) -> None:
    """Run ``path`` with these options; raises `JobFailed` if tasks failed."""
    options = Options(workers, force, dry_run, keep, console_progress(quiet=quiet, dry_run=dry_run))
    token = current.set(options)
    try:
        if path.suffix == ".toml":
            _run_job_file(path, arguments, to)
        else:
            _run_script(path, arguments, to)
    finally:
        current.reset(token)


def _run_job_file(path: Path, arguments: tuple[str, ...], to: str | None) -> None:
    from encamp.jobs.jobfile import load_job

    if arguments:
        raise UnusableInput(arguments[0], "a job file takes no arguments of its own")
    load_job(path, to=to).run()


def _run_script(path: Path, arguments: tuple[str, ...], to: str | None) -> None:
    if path.suffix != ".py":
        raise UnusableInput(str(path), "a job is a .toml file or a .py script")
    if to is not None:
        raise UnusableInput(str(path), "--to is for job files; a script has its own destination")
    if not path.is_file():
        raise UnusableInput(str(path), "it is a folder" if path.is_dir() else "it is not there")
    argv, folders = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, folders

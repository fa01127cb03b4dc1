"""``encamp run``: a job file, or a script that runs jobs."""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

from encamp.cli.script_threads import errors_of_threads
from encamp.engines.find_engine import engine_module
from encamp.errors import BadJob, EncampError, printable
from encamp.jobs.display.terminal import console_progress
from encamp.jobs.job_definition import SUFFIX
from encamp.jobs.run.dry_run import DryRunEnds
from encamp.jobs.run_options import RunOptions, current
from encamp.storage.real_paths import current_folder
from encamp.units import TIMES, seconds_in

_OF_CLUSTERS = "engine", "inline", "follow", "startup_dir"
"""Options of `Cluster` that a run does not pass on."""
_OWN_OPTIONS = {"slots": "-n", "engine": "-e", "hosts": "--hosts", "hostfile": "--hostfile",
                   "to": "--to"}  # fmt: skip
"""Options that have their own option of the command, by its name."""


_DRY_RUN_ENDS = "the dry run of the script ends here: the rest needs the results of the job {job}"


def run_command(path: Path, arguments: tuple[str, ...], *, to: str | None, **given: Any) -> None:
    """Run ``path`` with the options of `options_of`; raises `JobFailed` if tasks failed."""
    is_script = path.suffix != ".toml"
    with running(options_of(for_script=is_script, **given)):
        if is_script:
            run_script(path, arguments, to)
        else:
            run_job_file(path, arguments, to)


def options_of(
    *,
    engine: str,
    hosts: str | None,
    hostfile: str | None,
    more: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
    time_limit: str | None,
    **others: Any,
) -> RunOptions:
    """The job options of the command line; ``others`` are further fields. Raises `BadJob`."""
    current_folder()  # raises if the folder was removed
    engine_module(engine)  # raises for an unknown engine, before anything is read
    return RunOptions(
        engine=engine,
        engine_options=engine_options(hosts, hostfile, more),
        dry_run=dry_run,
        progress=console_progress(quiet=quiet, dry_run=dry_run),
        time_limit=seconds_of(time_limit),
        **others,
    )


@contextmanager
def running(options: RunOptions) -> Iterator[None]:
    """Use these options for jobs that run in the block."""
    with current.during(options):
        yield


def engine_options(
    hosts: str | None, hostfile: str | None, more: tuple[str, ...]
) -> dict[str, object]:
    """The options of the engine; raises `BadJob` for malformed ones."""
    options: dict[str, object] = {}
    for given in more:
        name, equals, value = given.partition("=")
        if not (name.isidentifier() and equals):
            raise BadJob(f"--option {given}", "write it as NAME=VALUE")
        if name in _OWN_OPTIONS:
            raise BadJob(f"--option {given}", f"use {_OWN_OPTIONS[name]}")
        if name in _OF_CLUSTERS or name in _of_executors():
            raise BadJob(f"--option {given}", f"it is an option for programs; jobs have no {name}")
        options[name] = int(value) if value.isdecimal() else value
    if hosts is not None:
        options["hosts"] = names_in(hosts)
    if hostfile is not None:
        options["hostfile"] = hostfile
    return options


def _of_executors() -> Collection[str]:
    from encamp.executor.executor import Executor  # imported here, because few runs need it

    return signature(Executor.__init__).parameters


def seconds_of(limit: str | None) -> float | None:
    """A time limit, with a unit or without; raises `BadJob`."""
    if limit is None:
        return None
    seconds = seconds_in(f"{limit}s") or seconds_in(limit)
    if not seconds:
        raise BadJob(f"--time-limit {limit}", TIMES)
    return seconds


def names_in(hosts: str) -> list[str]:
    """Names separated by commas; raises `BadJob` if there is none."""
    from encamp.engines.kit import hostfile as of_engines

    names = of_engines.names_in(hosts)
    if not names:
        raise BadJob("--hosts", "it names no host; write --hosts node1,node2")
    return names


def run_job_file(path: Path, arguments: tuple[str, ...], to: str | None) -> None:
    from encamp.jobs.file.jobfile import load_job

    if arguments:
        raise BadJob(arguments[0], f"a job file takes no arguments; run {path} without it")
    load_job(path, to=to).run()


def run_script(path: Path, arguments: tuple[str, ...], to: str | None) -> None:
    _check_script(path)
    if to is not None:
        raise BadJob(
            "--to", f"it is only for job files; pass the folder to {path} as its own argument"
        )
    argv, folders = sys.argv, list(sys.path)
    atexit.unregister(gc.freeze)  # the script may leave garbage to collect
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        with errors_of_threads():
            runpy.run_path(str(path), run_name="__main__")
    except DryRunEnds as end:
        print(_DRY_RUN_ENDS.format(job=printable(end.job)))  # noqa: T201 - the command's answer
    except EncampError:
        raise
    except Exception as exc:  # noqa: BLE001 - a script may raise anything
        _show(exc, str(path))
        sys.exit(1)
    finally:
        sys.argv, sys.path[:] = argv, folders


def _check_script(path: Path) -> None:
    if path.is_dir():
        why = f"this is a folder; give the job file or script in it{_instead(path)}"
        raise BadJob(str(path), why)
    if path.suffix != ".py":
        raise BadJob(str(path), f"a job is a .toml file or a .py script{_instead(path)}")
    if not path.exists():
        raise BadJob(str(path), "there is no such file; check its name and folder")
    if not os.access(path, os.R_OK):
        raise BadJob(str(path), "it cannot be read; check its permissions")


def _instead(path: Path) -> str:
    """The remedy for a job of a notebook, which only the notebook can run."""
    if path.suffix != ".ipynb" and not (path.is_dir() and list(path.glob(f"*{SUFFIX}"))):
        return ""
    return (
        '; in a notebook, job.run(keep="failed") keeps the folders of failed tasks, '
        "and encamp show DESTINATION TASK shows where they are"
    )


def _show(exc: Exception, script: str) -> None:
    """Print a traceback that begins in the script, as Python itself would."""
    frame = exc.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename != script:
        frame = frame.tb_next
    traceback.print_exception(exc.with_traceback(frame))

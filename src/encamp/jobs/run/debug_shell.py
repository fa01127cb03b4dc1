"""Debugging a task: its folder as at its start, and a shell or pdb in it."""

from __future__ import annotations

import bdb
import os
import pdb
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from encamp.errors import BadJob, EncampError, printable, shown
from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.journal.journal import Journal
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.plan.selection import no_task_named
from encamp.jobs.progress_interface import Silent
from encamp.jobs.run.dry_run import dry_run
from encamp.jobs.run_options import Debugged, RunOptions
from encamp.jobs.steps import Call, Command, line_of, lines_of
from encamp.jobs.worker.run_command import run_command
from encamp.reports import JobReport
from encamp.slot.numerical_threads import with_chosen
from encamp.storage.dead_owners import reclaim
from encamp.storage.local_storage import local_storage
from encamp.storage.sandbox_folder import Sandbox


class DebugEnds(SystemExit):
    """Ends a script after a task was debugged, since the rest would run jobs."""


def debug(job: JobDefinition, options: RunOptions, wanted: Debugged) -> JobReport:
    """Debug a task of a job, and end the program; returns the report of a job without this task.

    Publishes and records nothing. Raises `BadJob` for a task that depends on tasks that are not
    done, and the errors of `Job.run` for missing inputs.
    """
    if wanted.task not in job.tasks:
        wanted.others += job.tasks
        if not options.for_script:
            raise not_found(wanted)
        return _as_it_is(job, wanted.task, options)
    shared = job.shared or options.shared
    journal = Journal(job.true_folder(shared=shared), shared=shared, is_true=True)
    prepared = Prepared(job, journal)
    journal.read()
    waits = [one for one in prepared.graph.before[wanted.task] if one not in journal.done]
    if waits:
        why = f"waits for {printable(waits[0])}, which is not done; run it first"
        raise BadJob(f"task {wanted.task}", why)
    with _folder(job, prepared, wanted) as folder:
        whose = f"{printable(wanted.task)} of the job {printable(job.name)}"
        _print(f"task {whose}; nothing is published")
        _print(f"  folder: {printable(folder)}{'' if wanted.keep else ', removed at the end'}")
        steps = job.tasks[wanted.task].steps
        for step in steps:
            for line in lines_of(step):
                _print(f"  {shown(line)}")
        if wanted.shell or not any(isinstance(step, Call) for step in steps):
            status = _shell(folder, steps)
        else:
            status = _run(wanted.task, folder, steps)
    raise DebugEnds(status)


def not_found(wanted: Debugged) -> BadJob:
    """The error if no job of a script has the task."""
    return BadJob(f"task {wanted.task}", no_task_named(wanted.task, wanted.others))


def _as_it_is(job: JobDefinition, task: str, options: RunOptions) -> JobReport:
    """The report of an earlier job of the script; raises `BadJob` if it has something to do."""
    report = dry_run(job, replace(options, for_script=False), Silent())
    if report.count("to do"):
        remedy = "check the task's name, or run that job first"
        why = f"is not in the job {printable(job.name)}, which has unfinished tasks; {remedy}"
        raise BadJob(f"task {task}", why)
    return report


@contextmanager
def _folder(job: JobDefinition, prepared: Prepared, wanted: Debugged) -> Iterator[Path]:
    """The task's folder with its inputs in it."""
    inputs = prepared.inputs.of(wanted.task)
    local_storage()
    sandbox = Sandbox(f"{job.name}.{wanted.task}")
    try:
        sandbox.bring(prepared.shared)
        sandbox.place((*prepared.shared, *inputs))
        before = Path.cwd()
        os.chdir(sandbox.folder)
        try:
            yield sandbox.folder
        finally:
            os.chdir(before)
    finally:
        if wanted.keep:
            remedy = "encamp clean --all removes it, and empties the cache"
            _print(f"  the folder is kept: {printable(sandbox.keep())}; {remedy}")
        else:
            sandbox.remove()
            reclaim()


def _shell(folder: Path, steps: tuple[Call | Command, ...]) -> int:
    """Run a shell in the folder, with the variables of the steps; returns its exit status."""
    chosen: dict[str, str] = {}
    for step in steps:
        chosen |= step.env if isinstance(step, Command) else {}
    shell = os.environ.get("SHELL") or "/bin/sh"
    _print(f"  starting {printable(shell)}; type exit to leave it")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for programs in the shell
    try:
        process = subprocess.Popen(
            [shell], cwd=folder, env=with_chosen(chosen), preexec_fn=_interruptible
        )
        return process.wait()
    except OSError as exc:
        why = (exc.strerror or str(exc)).lower()
        raise BadJob(f"SHELL={shell}", f"it does not start: {why}") from exc
    finally:
        signal.signal(signal.SIGINT, before)


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run(task: str, folder: Path, steps: tuple[Call | Command, ...]) -> int:
    """Run the steps one after the other: functions in pdb, commands as usual."""
    for number, step in enumerate(steps, 1):
        _print(f"step {number}: {shown(line_of(step))}")
        try:
            if isinstance(step, Command):
                run_command(step, folder, task)
            else:
                _call(step)
        except bdb.BdbQuit:
            return 0
        except EncampError as exc:
            _print(str(exc))
            return 1
        except Exception as exc:  # noqa: BLE001 - a step may raise anything
            _after(exc)
            return 1
        os.chdir(folder)
    return 0


def _call(step: Call) -> Any:
    debugger = pdb.Pdb()
    value = debugger.runcall(step.function, *step.args, **step.kwargs)
    if value is not None:
        _print(f"returned {value!r}")
    return value


def _after(exc: BaseException) -> None:
    """Start pdb where an error was raised, from the step's own first frame on."""
    trace = exc.__traceback__
    while trace is not None and (trace.tb_frame.f_code.co_filename in (__file__, bdb.__file__)):
        trace = trace.tb_next
    traceback.print_exception(exc.with_traceback(trace))
    with suppress(bdb.BdbQuit):
        pdb.post_mortem(trace)


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()

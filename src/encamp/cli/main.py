"""The ``encamp`` command: its subcommands and their options."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from encamp.cli.completion import SHELLS, engines, files, folders, script_for
from encamp.engines.kit.closed_streams import name_standard_streams
from encamp.engines.kit.interpreter import command_signals
from encamp.errors import EncampError, InputError, OutOfTime, printable, shown
from encamp.exit_codes import signal_name
from encamp.jobs.display.nonblocking_stderr import Screen
from encamp.reports import JobFailed
from encamp.storage.exit_on_signal import Terminated
from encamp.version import __version__

F = TypeVar("F", bound=Callable[..., Any])

_GO_ON = "finished tasks stay done; run again to continue"

_RUN = """Run a job: a TOML job file, or a Python script that runs jobs.

Only what is missing or has changed is run, so the same command continues after Ctrl-C, a failure
or a power cut. Results, logs and a report are in the job's destination.

\b
  encamp run opamp.toml                 run a job file
  encamp run survey.py strips/2026      run a script with its own arguments
  encamp run --dry-run opamp.toml       only say what would run, and why; a script
                                        runs up to its first job with something to do
  encamp run -e mpi -n 4 opamp.toml     run on four MPI ranks
  encamp run --keep failed opamp.toml   keep the folders of failed tasks
  encamp run --only 'mc-*' opamp.toml   run these tasks, and those they depend on
  encamp run --failed --retries 2 opamp.toml
                                        run failed tasks again, with two retries

Arguments after the name of a script are passed to the script.

\b
Exit status:
  0        all tasks are done
  1        a task or a host failed
  2        the input cannot be used
  75       stopped before the end of a Slurm allocation: run it again
  128 + n  stopped by signal n: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP (a closed terminal)
"""

_MAP = """Run one command line for many files, or for many values.

Each task runs in its own folder, with its file in it, and its outputs are published whole. Only
what is missing or has changed is run, so the same command continues after Ctrl-C or a failure.

\b
  encamp map "sort -n {input} -o {stem}.sorted" data/*.xyz --outputs "*.sorted"
  encamp map "wc -l {input}" data/*.xyz --stdout {stem}.count --to counts
  find data -name '*.las' | encamp map "lasinfo {input}" - --stdout {stem}.txt
  encamp map "simulate -t {temperature} {corner}" --csv corners.csv --outputs gain.txt --into {task}
  encamp map "simulate --seed {run}" --foreach run=1..300 --mirror amp.cir --stdout {run}.log

FILES are names or patterns, or - for names from standard input, one on each line. Placeholders are
{input}, {stem}, {name}, {suffix}, {parent}, {path}, {index} and {task}, the columns of --csv, the
{line} of --lines and the names of --foreach. Each value stays one word. Exit status: as for run.
"""

_COMPLETION = """Print a script that lets a shell complete encamp's command lines.

\b
  eval "$(encamp completion bash)"                                in ~/.bashrc
  eval "$(encamp completion zsh)"                                 in ~/.zshrc
  encamp completion fish > ~/.config/fish/completions/encamp.fish
"""

_CLEAN = """Remove what dead processes left in this host's local storage.

Folders of living processes are never touched. With --all, kept folders and the host's cache of
input files are removed too.

\b
  encamp clean                           clean this host
  encamp clean --all --hosts node1,node2 remove everything on other hosts

Other hosts are reached by ssh without a password; ENCAMP_SSH names another command.
"""

_CACHE = """Show or clear this host's cache of inputs.

Files that several tasks need are copied to a host once and kept for later runs. ENCAMP_CACHE_LIMIT
limits the size of the cache ("50 GiB"; by default a fifth of the disk).
"""

_SHOW = """Show how a task ended, where it ran, its values, outputs and log.

With a job file, the task's command lines, environment and inputs are shown too. DESTINATION is the
folder with a job's results, or the job's own folder in it.

\b
  encamp show opamp.toml mc-tt-001
  encamp show results mc-tt-001
"""

_DEBUG = """Recreate a task's folder, with its inputs, to debug the task.

If the steps are command lines, a shell starts in the folder, with their environment variables. If
there are functions among them, the steps run in order, the functions under pdb, which stops at
their first line and where they raise an error. Nothing is published. The inputs are mirrored to
this host, wherever the task ran.

\b
  encamp debug opamp.toml mc-tt-001         a shell in the folder of a task
  encamp debug survey.py strip-3            pdb in the function of a task
  encamp debug --shell survey.py strip-3    a shell there, too

Arguments after the task's name are passed to the script.

Exit status: the shell's. With pdb: 0, or 1 if a step raised an error. 2: invalid input.
"""

_PRUNE = """Remove files that jobs have published and no longer make.

These are outputs of tasks that are no longer in the job, and outputs under names that the job no
longer uses; the job's last run counts. Files that have changed since they were published, and
files that no job has published, stay. DESTINATION is the folder with a job's results, or the
job's own folder in it. With a job file, it is the destination of that job.
"""

_DOCTOR = """Check hosts for common problems, and suggest remedies.

On every host of an engine, a task checks Python and libraries, local storage, shared folders,
locks, clocks, limits and shared memory. DESTINATION is the folder for results, by default the
current one.

\b
  encamp doctor                             this host
  encamp doctor -e mpi --hosts n1,n2 /net/results
                                            other hosts, and whether they see /net/results

Lines say ok, note (it works, but slower or less safely than it could) or fails. Exit status: 0 if
no check fails, 1 if a check fails, 2 if the input cannot be used.
"""

_ATTACH = """Follow the output of a service's server, until it ends.

NAME is SERVICE/SERVER, with the number that `Service.statistics` shows; without it, the servers of
your programs on this host are listed. Run it on the host of the program that has published the
service, even if the server runs on another host. It first shows the server's latest output.

\b
  encamp attach                list servers
  encamp attach Sampler/3      follow the third one

Exit status: 0 if the server has ended, 2 if there is no such server, 130 if stopped by Ctrl-C.
"""

_SHARED = "Accept a job folder that belongs to another member of its group."

_STATUS = """Show the state of the jobs in a destination.

Nothing is run. DESTINATION is the folder with a job's results, or the job's own folder in it:
results, or results/opamp.job. With a job file, it is the destination of that job. The command also
works while the job runs, from another terminal or from another host that sees the folder.

\b
  encamp status results             once
  encamp status --follow results    the tasks that run, counts and times, until the jobs have ended
  encamp status --json results      for programs; with --follow a line for every change
"""


class _Run(click.Command):
    """Accepts options after a job file, but passes everything after a script to the script."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = not any(word.endswith(".py") for word in args)
        return super().parse_args(ctx, args)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="encamp")
def cli() -> None:
    """Run functions and command lines, each in its own private folder.

    The files a task needs are mirrored into its folder, its outputs are published whole or not at
    all, and the folder is removed afterwards.

    \b
      encamp run JOB.toml        run a job; run it again to continue where it stopped
      encamp map COMMAND FILES   one command line for many files
      encamp status results      the state of the jobs in a destination
      encamp show results TASK   how a task ended, its values, outputs and log
      encamp debug JOB TASK      a shell or pdb in its folder, with its inputs
      encamp prune results       remove published files that a job no longer makes
      encamp clean               remove what killed processes left on this host
      encamp doctor              check hosts for common problems
      encamp cache why FILE      why an input was copied, linked, fetched again or evicted
      encamp attach Sampler/3    follow the output of a service's server
      encamp completion bash     let the shell complete command lines
    """


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Common options of commands, in the order in which help shows them."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_reached = _options(
    click.option("--hosts", metavar="A,B,…", help="Hosts for the engine, separated by commas."),
    click.option("--hostfile", metavar="FILE", shell_complete=files,
                 help="File with hosts for the engine, as mpirun reads it."),
    click.option("-o", "--option", "more", multiple=True, metavar="NAME=VALUE",
                 help="Other options of the engine: mpi=openmpi, machine=own."),
)  # fmt: skip
"""An engine's options."""


_running = _options(
    click.option("-e", "--engine", default="local", metavar="NAME", show_default=True,
                 shell_complete=engines,
                 help="Engine to run on: local, mpi, pvm, dask, ipyparallel."),
    click.option("-n", "-j", "--slots", type=click.IntRange(min=1), help="Number of slots "
                 "[default: one for each core]."),
    _reached,
    click.option("--retries", type=click.IntRange(min=0), metavar="N",
                 help="Number of retries after a failure; overrides the job's setting."),
    click.option("--time-limit", metavar="TIME",
                 help="Limit for one attempt; overrides the job's setting: 30, '5 min', 2h."),
    click.option("--max-failures", type=click.IntRange(min=1), metavar="N",
                 help="After N failures start no more tasks; running tasks are finished."),
    click.option("-f", "--force", is_flag=True, help="Run all tasks, even if they are up to date."),
    click.option("--dry-run", is_flag=True, help="Only show what would run, and why."),
    click.option("--keep", type=click.Choice(["never", "failed", "always"]), default="never",
                 show_default=True, help="Which task folders to keep."),
    click.option("--shared", is_flag=True,
                 help="Let all members of the job folder's group run it."),
    click.option("--only", multiple=True, metavar="PATTERN",
                 help="Run only tasks with this name, and those they depend on."),
    click.option("--failed", is_flag=True, help="Run only tasks that failed in their last run."),
    click.option("-q", "--quiet", is_flag=True, help="Print only failures."),
)  # fmt: skip
"""Options of commands that run tasks."""


@cli.command(help=_RUN, cls=_Run)
@click.argument("job", metavar="JOB.toml|SCRIPT.py", shell_complete=files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_running
@click.option("--to", metavar="FOLDER", help="Destination, in place of the job file's own.")
def run(job: str, arguments: tuple[str, ...], **options: object) -> None:
    from encamp.cli.run import run_command

    run_command(Path(job), arguments, **options)  # type: ignore[arg-type]


@cli.command("map", help=_MAP)
@click.argument("command")
@click.argument("files", nargs=-1, shell_complete=files)
@click.option(
    "--to",
    default="results",
    metavar="FOLDER",
    show_default=True,
    help="Destination of the results, and of the job's folder with report and logs.",
)
@click.option(
    "--outputs",
    "--output",
    multiple=True,
    metavar="PATTERN",
    help="Files to publish from each task's folder, such as '*.sorted'.",
)
@click.option(
    "--into",
    default=".",
    metavar="FOLDER",
    help="Folder inside the destination, such as '{parent}'.",
)
@click.option("--no-outputs", is_flag=True, help="There are no outputs to publish.")
@click.option(
    "--stdout", metavar="NAME", help="File for the output of the command; it is published too."
)
@click.option(
    "--values",
    metavar="NAME",
    help="File with the task's values for results.csv: .json, .csv, or lines of name and value.",
)
@click.option(
    "--stdin", metavar="NAME", help=("File in the task's folder for the command's standard input.")
)
@click.option(
    "--mirror",
    multiple=True,
    metavar="PATTERN",
    help="Further files that the command needs in its folder.",
)
@click.option(
    "--csv", metavar="FILE", help="A task for each row of a table, whose columns are placeholders."
)
@click.option("--lines", metavar="FILE", help="A task for each line of a file, {line}.")
@click.option(
    "--foreach",
    multiple=True,
    metavar="NAME=VALUES",
    help="A task for each value: corner=tt,ff, run=1..70, or run=1..70..3 (every third).",
)
@click.option(
    "-0", "--null", is_flag=True, help="Names on standard input end with null bytes (find -print0)."
)
@click.option("--shell", is_flag=True, help="Let /bin/sh run the command: pipes, >, variables.")
@click.option("--bash", is_flag=True, help="Let bash run it; a pipeline fails if any part fails.")
@click.option(
    "--env", multiple=True, metavar="NAME=VALUE", help=("An environment variable for the command.")
)
@click.option("--name", help="The job's name [default: map- and the command's first word].")
@click.option("--task", metavar="NAME", help="Names of tasks [default: {stem}, or the values].")
@_running
def map_(shell: bool, bash: bool, **given: Any) -> None:
    from dataclasses import fields

    from encamp.cli.map import Mapped, map_command

    own = {field.name: given.pop(field.name) for field in fields(Mapped) if field.name != "shell"}
    map_command(Mapped(shell="bash" if bash else shell, **own), **given)


@cli.command(help=_CLEAN)
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Also remove kept folders and the cache."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--hosts", metavar="A,B,…", help="Clean these hosts by ssh, not this one.")
@click.option(
    "--python", metavar="PATH", help="Interpreter on these hosts [default: the path of this one]."
)
def clean(**options: object) -> None:
    from encamp.cli.clean import clean_command

    clean_command(**options)  # type: ignore[arg-type]


@cli.group(help=_CACHE)
def cache() -> None:
    pass


@cache.command("list")
def cache_list() -> None:
    """List the inputs in the cache, least recently used first."""
    from encamp.cli.cache import list_command

    list_command()


@cache.command("why")
@click.argument("file")
def cache_why(file: str) -> None:
    """Show why an input was fetched, fetched again, evicted or refused, and its mode now."""
    from encamp.cli.cache import why_command

    why_command(file)


@cache.command("clear")
@click.option("--dry-run", is_flag=True, help="Only show how much would be removed.")
def cache_clear(dry_run: bool) -> None:
    """Remove every entry that no task is using now."""
    from encamp.cli.cache import clear_command

    clear_command(dry_run=dry_run)


@cli.command(help=_STATUS)
@click.argument("place", metavar="JOB.toml|DESTINATION", shell_complete=folders)
@click.option("--follow", is_flag=True, help="Follow the jobs until none of them is running.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--shared", is_flag=True, help=_SHARED)
def status(place: str, *, shared: bool, follow: bool, as_json: bool) -> None:
    from encamp.cli.status import status_command

    status_command(Path(place), shared=shared, follow=follow, as_json=as_json)


@cli.command(help=_ATTACH)
@click.argument("name", required=False)
@click.option("--program", type=int, metavar="PID",
              help="Process that published it, if there are several.")  # fmt: skip
def attach(name: str | None, *, program: int | None) -> None:
    from encamp.cli.attach import attach_command

    attach_command(name, program)


@cli.command(help=_SHOW)
@click.argument("place", metavar="JOB.toml|DESTINATION")
@click.argument("task")
@click.option("--shared", is_flag=True, help=_SHARED)
def show(place: str, task: str, *, shared: bool) -> None:
    from encamp.cli.show import show_command

    show_command(Path(place), task, shared=shared)


@cli.command(help=_DEBUG, context_settings={"allow_interspersed_args": False})
@click.argument("job", metavar="JOB.toml|SCRIPT.py", shell_complete=files)
@click.argument("task")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--shell", is_flag=True, help="Start a shell even if steps are functions.")
@click.option("--keep", is_flag=True, help="Keep the folder.")
@click.option("--shared", is_flag=True, help=_SHARED)
def debug(job: str, task: str, arguments: tuple[str, ...], **options: bool) -> None:
    from encamp.cli.debug import debug_command

    debug_command(Path(job), task, arguments, **options)


@cli.command(help=_PRUNE)
@click.argument("place", metavar="JOB.toml|DESTINATION")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--shared", is_flag=True, help=_SHARED)
def prune(place: str, *, dry_run: bool, shared: bool) -> None:
    from encamp.cli.prune import prune_command

    prune_command(Path(place), dry_run=dry_run, shared=shared)


@cli.command(help=_COMPLETION)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    click.echo(script_for(shell, cli))


@cli.command(help=_DOCTOR)
@click.argument("destination", required=False)
@click.option("-e", "--engine", default="local", metavar="NAME", show_default=True,
              help="Engine to reach hosts: local, mpi, pvm, dask, ipyparallel.")  # fmt: skip
@click.option(
    "-n", "--slots", type=click.IntRange(min=1), help="Number of slots that must be available."
)
@_reached
def doctor(destination: str | None, **options: object) -> int:
    from encamp.cli.doctor import doctor_command

    return doctor_command(destination, **options)  # type: ignore[arg-type]


def main() -> NoReturn:
    """Entry point. Ends the process with the exit status; bad input never gives a traceback."""
    name_standard_streams()
    command_signals()
    atexit.register(gc.freeze)  # skip garbage collection at exit, when all memory is freed anyway
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold any character
    sys.exit(_flushed(_status()))


def _status() -> int:
    """Run the command line; returns the exit status."""
    try:
        code = cli.main(standalone_mode=False, prog_name="encamp")
    except SystemExit as exc:
        return _ended(exc)
    except click.ClickException as exc:
        exc.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        _say(f"stopped; {_GO_ON}")
        return 128 + signal.SIGINT
    except JobFailed:
        return 1  # the failures are listed already
    except OutOfTime as exc:
        _say(str(exc))
        return os.EX_TEMPFAIL
    except EncampError as exc:
        _say(str(exc))
        return 2 if isinstance(exc, InputError) else 1
    except OSError as exc:  # of encamp's own files; a script's errors are shown as Python does
        _report_os_error(exc, "standard output" if exc.errno in _NOT_WRITTEN else "")
        return 1
    return code if isinstance(code, int) else 0


def _ended(exc: SystemExit) -> int:
    """The exit status after a signal, or of the script."""
    if isinstance(exc, Terminated):
        _say(f"stopped by {signal_name(exc.number)}; {_GO_ON}")
    if exc.code is None or isinstance(exc.code, int):
        return exc.code or 0
    Screen(sys.stderr).write(f"{shown(str(exc.code))}\n")
    return 1


def _flushed(code: int) -> int:
    """The exit status, even if standard output cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python's own flush fails, too
        _report_os_error(exc, "standard output")
        return code or 1
    return code


_NOT_WRITTEN = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
"""Errors of a full or broken output. Those of a file have its name."""


def _report_os_error(exc: OSError, what: str = "") -> None:
    """Report an error of the system, except a closed standard output."""
    if not isinstance(exc, BrokenPipeError):
        what = printable(exc.filename) if exc.filename else what
        where = f"{what}: " if what else ""
        _say(f"{where}{(exc.strerror or str(exc)).lower()}")


def _say(text: str) -> None:
    """Print a message of the command, unless standard error is closed."""
    screen = Screen(sys.stderr)
    screen.write(f"encamp: {shown(text)}\n")
    screen.drain()

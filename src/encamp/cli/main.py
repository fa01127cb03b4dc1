"""The ``encamp`` command: what each subcommand is called and takes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from encamp.cli.completion import SHELLS, engines, files, folders, script_for
from encamp.engines.kit.interpreter import command_signals
from encamp.engines.kit.streams import name_standard_streams
from encamp.errors import EncampError, InputError, OutOfTime, printable, shown
from encamp.jobs.display.screen import Screen
from encamp.model import JobFailed
from encamp.storage.signals import Terminated
from encamp.version import __version__

F = TypeVar("F", bound=Callable[..., Any])

_GO_ON = "what is done stays done, run again to go on"

_RUN = """Run a job: a TOML job file, or a Python script that runs jobs.

Only what is missing or changed is run, so the same line goes on after Ctrl-C, a failure or a
power cut. Results, logs and a report are in the job's destination.

\b
  encamp run opamp.toml                 run a job file
  encamp run survey.py strips/2026      run a script, with arguments of its own
  encamp run --dry-run opamp.toml       only say what would run, and why; a script
                                        runs up to its first job with something to do
  encamp run -e mpi -n 4 opamp.toml     run on four ranks of MPI
  encamp run --keep failed opamp.toml   keep the folders of failed tasks to look into
  encamp run --only 'mc-*' opamp.toml   run these tasks, and what they wait for
  encamp run --failed --retries 2 opamp.toml
                                        run what has failed, with two further tries

All that follows the name of a script is for the script. Exit status: 0 all tasks are done, 1 some
failed or hosts did, 2 the input cannot be used, 75 stopped in time before the end of the batch
system's allocation, 128 + n stopped by signal n: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP,
which a terminal sends when it is closed.
"""

_MAP = """Run one command line for many files, or for many values.

Each task has a folder of its own with its file in it, and what it makes is brought home whole.
Only what is missing or changed is run, so the same line goes on after Ctrl-C or a failure.

\b
  encamp map "sort -n {input} -o {stem}.sorted" data/*.xyz --outputs "*.sorted"
  encamp map "wc -l {input}" data/*.xyz --stdout {stem}.count --to counts
  find data -name '*.las' | encamp map "lasinfo {input}" - --stdout {stem}.txt
  encamp map "simulate -t {temperature} {corner}" --csv corners.csv --outputs gain.txt --into {task}
  encamp map "simulate --seed {run}" --foreach run=1..300 --mirror amp.cir --stdout {run}.log

FILES are names or patterns, or - for names from standard input, one a line. Placeholders are
{input}, {stem}, {name}, {suffix}, {parent}, {path}, {index} and {task}; with --csv the columns,
with --lines {line}, with --foreach the names. Values stay one word each. Exit status as of run.
"""

_COMPLETION = """Print what makes a shell complete encamp's command lines.

\b
  eval "$(encamp completion bash)"                                in ~/.bashrc
  eval "$(encamp completion zsh)"                                 in ~/.zshrc
  encamp completion fish > ~/.config/fish/completions/encamp.fish
"""

_CLEAN = """Remove what dead processes left in this host's local storage.

Folders of living processes are never touched. With --all, folders that were kept for looking
into and the host's cache of input files go too.

\b
  encamp clean                           what is left on this host
  encamp clean --all --hosts node1,node2 everything on others, also on one that was switched off

Other hosts are reached through ssh without a password, by the command that ENCAMP_SSH names.
"""

_CACHE = """Look into this host's cache of inputs, or clear it.

Files that several tasks want are brought to a host once and kept for later runs, within the
limit that ENCAMP_CACHE_LIMIT sets ("50 GiB"; a fifth of the disk by default).
"""

_SHOW = """Say what is known of one task: how it ended, where it ran, its values, outputs and log.

PLACE is a job file, which also tells the task's command lines, environment and inputs, or the
folder that a job has its results in, or the job's own folder in it.

\b
  encamp show opamp.toml mc-tt-001
  encamp show results mc-tt-001
"""

_DEBUG = """Make a task's folder again with its inputs, and look into it.

Commands get a shell in the folder, with the variables of the steps. Functions run in pdb from their
first line on, after the steps before them; where one raises an error, pdb is there. Nothing is
published. The inputs are mirrored to this host, wherever the task has run.

\b
  encamp debug opamp.toml mc-tt-001         a shell in the folder of a task
  encamp debug survey.py strip-3            pdb in the function of a task
  encamp debug --shell survey.py strip-3    a shell there, too

All that follows the task's name is for the script. Exit status: of the shell; of pdb 0, or 1 if a
step raised an error; 2 the input cannot be used.
"""

_PRUNE = """Remove files that jobs have published and no longer make.

These are the outputs of tasks that were taken out of a job, and outputs that have another name
now. What counts is the job as it was last run. Files that were changed since, and files that no
job has published, stay.
DESTINATION is the folder that a job has its results in, or the job's own folder in it.
"""

_DOCTOR = """Check what usually goes wrong on hosts, and say what to do about it.

On every host of an engine a task looks at Python and libraries, local storage, shared folders,
locks, clocks, limits and shared memory. DESTINATION is the folder that results are to go to; the
current one by default.

\b
  encamp doctor                             this host
  encamp doctor -e mpi --hosts n1,n2 /net/results
                                            others, and what they see of /net/results

Lines say ok, note (it works, but slower or less safely than it could) or fails. Exit status: 0 all
will work, 1 something will not, 2 the input cannot be used.
"""

_ATTACH = """Follow what a server of a service prints, until it ends.

NAME is SERVICE/SERVER, with the number that `Service.statistics` shows; without it the servers
of your programs on this host are listed. To be called on the host of the program that has
published the service, whichever host the server is on. What it has printed last comes first.

\b
  encamp attach                list servers
  encamp attach Sampler/3      follow the third one

Exit status: 0 the server has ended, 2 there is no such server, 130 stopped by Ctrl-C.
"""

_SHARED = "The job may be any member's of the group of its folder."

_STATUS = """Say how the jobs in a destination stand.

Nothing is run. DESTINATION is the folder that a job has its results in, or the job's own folder
in it: results, or results/opamp.job. It may be asked from another terminal, or on another host
that sees the folder.

\b
  encamp status results             once
  encamp status --follow results    the tasks that run, counts and times, until the jobs have ended
  encamp status --json results      for programs; with --follow a line for every change
"""


class _Run(click.Command):
    """Takes options also after a job file, but leaves what follows a script to the script."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = not any(word.endswith(".py") for word in args)
        return super().parse_args(ctx, args)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="encamp")
def cli() -> None:
    """Run functions and command lines, each in a private folder of its own.

    The files a task needs are mirrored into its folder, the files it makes are brought back
    whole, and the folder is removed afterwards.

    \b
      encamp run JOB.toml        run a job; run it again to go on where it stopped
      encamp map COMMAND FILES   one command line for many files
      encamp status results      how the jobs in a destination stand
      encamp show results TASK   how a task ended, its values, outputs and log
      encamp debug JOB TASK      its folder again, with a shell or pdb in it
      encamp prune results       remove files that a job no longer makes
      encamp clean               remove what killed processes left on this host
      encamp doctor              what would go wrong on these hosts, and what to do
      encamp cache why FILE      why an input was copied, linked, fetched again or evicted
      encamp attach Sampler/3    follow what a server of a service prints
      encamp completion bash     have the shell complete command lines
    """


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options that commands have in common, in the order in which help shows them."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_reached = _options(
    click.option("--hosts", metavar="A,B,…", help="Hosts for the engine, with commas between."),
    click.option("--hostfile", metavar="FILE", shell_complete=files,
                 help="Hosts for the engine, in a file that mpirun could read."),
    click.option("-o", "--option", "more", multiple=True, metavar="NAME=VALUE",
                 help="What else the engine takes: mpi=openmpi, machine=own."),
)  # fmt: skip
"""What an engine is told."""


_running = _options(
    click.option("-e", "--engine", default="local", metavar="NAME", show_default=True,
                 shell_complete=engines,
                 help="What runs the slots: local, mpi, pvm, dask, ipyparallel."),
    click.option("-n", "-j", "--slots", type=click.IntRange(min=1), help="Slots to run tasks in "
                 "[default: one for each core]."),
    _reached,
    click.option("--retries", type=click.IntRange(min=0), metavar="N",
                 help="Further tries after a failure, whatever the job says."),
    click.option("--time-limit", metavar="TIME",
                 help="How long a try may take, whatever the job says: 30, '5 min', 2h."),
    click.option("--max-failures", type=click.IntRange(min=1), metavar="N",
                 help="Begin no more tasks when so many have failed."),
    click.option("-f", "--force", is_flag=True, help="Run everything, also what is up to date."),
    click.option("--dry-run", is_flag=True, help="Only say what would run, and why."),
    click.option("--keep", type=click.Choice(["never", "failed", "always"]), default="never",
                 show_default=True, help="Which task folders to keep for looking into."),
    click.option("--shared", is_flag=True,
                 help="Let all members of the job folder's group run it."),
    click.option("--only", multiple=True, metavar="PATTERN",
                 help="Run tasks of this name only, and what they wait for."),
    click.option("--failed", is_flag=True, help="Run only tasks that failed when last run."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but what went wrong."),
)  # fmt: skip
"""What commands take that run tasks."""


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
    help="Destination: results, and the job's folder with report and logs.",
)
@click.option(
    "--outputs",
    "--output",
    multiple=True,
    metavar="PATTERN",
    help="Files to bring home from each task's folder, such as '*.sorted'.",
)
@click.option(
    "--into",
    default=".",
    metavar="FOLDER",
    help="Folder for them inside the destination, such as '{parent}'.",
)
@click.option("--no-outputs", is_flag=True, help="There is nothing to bring home.")
@click.option("--stdout", metavar="NAME", help="File for what the command prints; an output, too.")
@click.option(
    "--values",
    metavar="NAME",
    help="File with the task's values, for results.csv: .json, .csv, name and value.",
)
@click.option("--stdin", metavar="NAME", help="File in the task's folder for it to read from.")
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
    help="Tasks for each of these values: corner=tt,ff or run=1..70.",
)
@click.option("-0", "--null", is_flag=True, help="Names from - end with nulls: find -print0.")
@click.option("--shell", is_flag=True, help="Have /bin/sh run the command: pipes, >, variables.")
@click.option(
    "--bash", is_flag=True, help="Have bash run it, where a pipeline fails with any part."
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable for the command.")
@click.option("--name", help="The job's name [default: map- and the command's first word].")
@click.option(
    "--task", metavar="NAME", help="What tasks are called [default: {stem}, or the values]."
)
@_running
def map_(shell: bool, bash: bool, **given: Any) -> None:
    from dataclasses import fields

    from encamp.cli.map import Mapped, map_command

    own = {field.name: given.pop(field.name) for field in fields(Mapped) if field.name != "shell"}
    map_command(Mapped(shell="bash" if bash else shell, **own), **given)


@cli.command(help=_CLEAN)
@click.option("-a", "--all", "everything", is_flag=True, help="Also kept folders and the cache.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--hosts", metavar="A,B,…", help="Clean these hosts, through ssh, not this one.")
@click.option(
    "--python", metavar="PATH", help="The interpreter on them [default: this one's path]."
)
def clean(**options: object) -> None:
    from encamp.cli.clean import clean_command

    clean_command(**options)  # type: ignore[arg-type]


@cli.group(help=_CACHE)
def cache() -> None:
    pass


@cache.command("list")
def cache_list() -> None:
    """List the inputs that are in the cache, those first that were not used for longest."""
    from encamp.cli.cache import list_command

    list_command()


@cache.command("why")
@click.argument("file")
def cache_why(file: str) -> None:
    """Say why an input was fetched, fetched again, evicted or refused, and how it would come."""
    from encamp.cli.cache import why_command

    why_command(file)


@cache.command("clear")
@click.option("--dry-run", is_flag=True, help="Only say how much would be removed.")
def cache_clear(dry_run: bool) -> None:
    """Remove every entry that no task is using now."""
    from encamp.cli.cache import clear_command

    clear_command(dry_run=dry_run)


@cli.command(help=_STATUS)
@click.argument("destination", shell_complete=folders)
@click.option("--follow", is_flag=True, help="Go on telling until none of the jobs is being run.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--shared", is_flag=True, help=_SHARED)
def status(destination: str, *, shared: bool, follow: bool, as_json: bool) -> None:
    from encamp.cli.status import status_command

    status_command(Path(destination), shared=shared, follow=follow, as_json=as_json)


@cli.command(help=_ATTACH)
@click.argument("name", required=False)
@click.option("--program", type=int, metavar="PID",
              help="The process that has published it, if several have.")  # fmt: skip
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
@click.option("--shell", is_flag=True, help="A shell also where steps are functions.")
@click.option("--keep", is_flag=True, help="Leave the folder where it can be looked into.")
@click.option("--shared", is_flag=True, help=_SHARED)
def debug(job: str, task: str, arguments: tuple[str, ...], **options: bool) -> None:
    from encamp.cli.debug import debug_command

    debug_command(Path(job), task, arguments, **options)


@cli.command(help=_PRUNE)
@click.argument("destination")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--shared", is_flag=True, help=_SHARED)
def prune(destination: str, *, dry_run: bool, shared: bool) -> None:
    from encamp.cli.prune import prune_command

    prune_command(Path(destination), dry_run=dry_run, shared=shared)


@cli.command(help=_COMPLETION)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    click.echo(script_for(shell, cli))


@cli.command(help=_DOCTOR)
@click.argument("destination", required=False)
@click.option("-e", "--engine", default="local", metavar="NAME", show_default=True,
              help="What reaches the hosts: local, mpi, pvm, dask, ipyparallel.")  # fmt: skip
@click.option("-n", "--slots", type=click.IntRange(min=1), help="Slots that are to be there.")
@_reached
def doctor(destination: str | None, **options: object) -> int:
    from encamp.cli.doctor import doctor_command

    return doctor_command(destination, **options)  # type: ignore[arg-type]


def main() -> NoReturn:
    """Entry point: every ending has its exit status, bad input never a traceback."""
    name_standard_streams()
    command_signals()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold any character
    sys.exit(_written(_status()))


def _status() -> int:
    """Do what the command line says; returns the exit status."""
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
        _refused(exc)
        return 1
    return code if isinstance(code, int) else 0


def _ended(exc: SystemExit) -> int:
    """What a signal, or the script, has to say of its end."""
    if isinstance(exc, Terminated):
        _say(f"stopped by {signal.Signals(exc.number).name}; {_GO_ON}")
    if exc.code is None or isinstance(exc.code, int):
        return exc.code or 0
    Screen(sys.stderr).write(f"{shown(str(exc.code))}\n")
    return 1


def _written(code: int) -> int:
    """The exit status, also if nobody takes what is still to be written to standard output."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # no second complaint at the very end
        _refused(exc, "standard output")
        return code or 1
    return code


def _refused(exc: OSError, what: str = "") -> None:
    """Say what the system refused; that nobody reads on is no news."""
    if not isinstance(exc, BrokenPipeError):
        what = printable(exc.filename) if exc.filename else what
        where = f"{what}: " if what else ""
        _say(f"{where}{(exc.strerror or str(exc)).lower()}")


def _say(text: str) -> None:
    """The command's own voice; nobody need be there to hear it."""
    screen = Screen(sys.stderr)
    screen.write(f"encamp: {shown(text)}\n")
    screen.drain()

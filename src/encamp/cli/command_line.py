"""The ``encamp`` command: its subcommands and their options."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from encamp.cli.completion import SHELLS, engines, files, folders, script_for
from encamp.cli.exit_status import exit_status, flushed
from encamp.engines.kit.closed_streams import name_standard_streams
from encamp.engines.kit.own_interpreter import command_signals
from encamp.version import __version__

F = TypeVar("F", bound=Callable[..., Any])

_RUN = """Run a job: a TOML job file, or a Python script that runs jobs.

encamp runs only tasks whose results are missing, or whose inputs or steps have changed. To
continue after Ctrl-C, a failure or a power cut, type the same command again. Results, logs and a
report are in the job's destination.

\b
  encamp run opamp.toml                 run a job file
  encamp run survey.py strips/2026      run a script with its own arguments
  encamp run --dry-run opamp.toml       only show what would run, and why; a script
                                        stops at its first job that has something to run
  encamp run -e mpi -n 4 opamp.toml     run on four MPI ranks
  encamp run --keep failed opamp.toml   keep the folders of failed tasks
  encamp run --only 'mc-*' opamp.toml   run these tasks, and the tasks they depend on
  encamp run --failed --retries 2 opamp.toml
                                        run failed tasks again, with two retries each

Everything after the name of a script is passed to the script, so options of encamp come first.

\b
Exit status:
  0        all tasks are done
  1        a task failed, the engine could not start on any host, or all hosts were lost
  2        the input cannot be used
  75       stopped before the end of a Slurm allocation: run it again
  128 + n  stopped by signal n: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP (a closed terminal)
"""

_MAP = """Run one command line for many files, or for many values.

Each file gets a task, which runs in a private folder that contains the file. When the task
succeeds, its outputs appear in the destination, all of them complete. encamp runs only tasks whose
results are missing or whose inputs have changed: type the same command again to continue.

\b
  encamp map "sort -n {input} -o {stem}.sorted" data/*.xyz --outputs "*.sorted"
  encamp map "wc -l {input}" data/*.xyz --stdout {stem}.count --to counts
  find data -name '*.las' | encamp map "lasinfo {input}" - --stdout {stem}.txt
  encamp map "simulate -t {temperature} {corner}" --csv corners.csv --outputs gain.txt --into {task}
  encamp map "simulate --seed {run}" --foreach run=1..300 --mirror amp.cir --stdout {run}.log

FILES are names or patterns, or - to read names from standard input, one on each line. Placeholders
are {input}, {stem}, {name}, {suffix}, {parent}, {path}, {index} and {task}, the columns of --csv,
{line} with --lines, and the names of --foreach. A value is never split into several words.

Exit status: as for run.
"""

_COMPLETION = """Print the script for a shell's completion of command lines.

\b
  eval "$(encamp completion bash)"                                in ~/.bashrc
  eval "$(encamp completion zsh)"                                 in ~/.zshrc
  encamp completion fish > ~/.config/fish/completions/encamp.fish
"""

_CLEAN = """Remove what killed programs left in this host's local storage.

Folders of running programs are never touched. With --all, encamp also removes kept folders, and
the host's cache of input files.

\b
  encamp clean                            clean this host
  encamp clean --all --hosts node1,node2  remove all of it on these hosts

encamp reaches hosts through ssh without a password; set ENCAMP_SSH to use a different command.
"""

_CACHE = """Show or clear this host's cache of inputs.

An input that several tasks need is copied to a host only once, and kept for later runs. Set
ENCAMP_CACHE_LIMIT to limit the size of the cache ("50 GiB"; by default a fifth of the disk).

\b
  encamp cache list               list the cached inputs
  encamp cache why data/dem.tif   show why this input was fetched, evicted or refused
  encamp cache clear              remove everything that no task is using
"""

_SHOW = """Show how a task ended, its values, outputs and log.

With a job file, encamp also shows the task's command lines, environment and inputs. DESTINATION is
the folder with a job's results, or the job's own folder in it.

\b
  encamp show opamp.toml mc-tt-001
  encamp show results mc-tt-001
"""

_DEBUG = """Recreate a task's folder, with its inputs, to debug the task.

If all steps are command lines, a shell starts in the folder, with their environment variables. If
any step is a function, the steps run in order, with the functions under pdb: it stops at the first
line of each function, and where one raises an error. Nothing is published. The folder is on this
host, wherever the task ran, and has the inputs as they are now.

\b
  encamp debug opamp.toml mc-tt-001         start a shell in the folder of this task
  encamp debug survey.py strip-3            start pdb in the function of this task
  encamp debug --shell survey.py strip-3    start a shell instead of pdb

Arguments after the task's name are passed to the script.

Exit status: that of the shell; with pdb 0, or 1 if a step raised an error; 2 if the input cannot
be used.
"""

_PRUNE = """Remove files that jobs have published and no longer make.

encamp removes files that a job has published but whose task is no longer in the job, or no longer
makes a file of this name. What counts is the job as it last ran. Files that have changed since they
were published stay, and so do files that no job has published. DESTINATION is the folder with a
job's results, or the job's own folder in it. With a job file, it is the destination of that job.

\b
  encamp prune --dry-run results   only show which files would be removed
  encamp prune opamp.toml          remove them from the destination of this job
"""

_DOCTOR = """Check hosts for common problems, and suggest remedies.

On each host of the engine, a task checks Python and libraries, local storage, shared folders,
locks, clocks, limits and shared memory. DESTINATION is the folder for results, by default the
current folder.

\b
  encamp doctor                             check this host
  encamp doctor -e mpi --hosts n1,n2 /net/results
                                            check other hosts, and whether they see this folder

Each check is marked ok, note (it works, but slower or less safely than it could) or fails.

Exit status: 0 if no check fails, 1 if a check fails, 2 if the input cannot be used.
"""

_ATTACH = """Follow the output of a service's server, until it ends.

The command shows the server's latest output first. NAME is SERVICE/NUMBER, with the server's number
from `Service.statistics`. Without NAME, the servers of your programs on this host are listed. Run
the command on the host of the program that has published the service, even if the server runs on a
different host.

\b
  encamp attach                list servers
  encamp attach Sampler/3      follow server 3 of the service Sampler

Exit status: 0 if the server has ended, 2 if there is no such server, 130 if stopped by Ctrl-C.
"""

_SHARED = "Accept a job's folder that a different member of its group owns."

_STATUS = """Show the state of the jobs in a destination.

Nothing is run. DESTINATION is the folder with a job's results, or the job's own folder in it:
results, or results/opamp.job. With a job file, it is the destination of that job. The command also
works while the job runs, from a different terminal or a different host that sees the folder.

\b
  encamp status results            show the state once
  encamp status --follow results   show running tasks, counts and times until the jobs have ended
  encamp status --json results     print JSON for programs; with --follow, a line for every change
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

    The files a task needs are mirrored into its folder. When the task succeeds, its outputs appear
    at the destination, all of them complete; when it fails, none do. The folder is then removed.

    \b
      encamp run JOB.toml        run a job; run it again to continue where it stopped
      encamp map COMMAND FILES   run one command line for many files
      encamp status results      show the state of the jobs in a destination
      encamp show results TASK   show how a task ended, its values, outputs and log
      encamp debug JOB TASK      start a shell or pdb in the task's folder, with its inputs
      encamp prune results       remove published files that a job no longer makes
      encamp clean               remove what killed programs left on this host
      encamp doctor              check hosts for common problems
      encamp cache why FILE      show why an input was copied, linked, fetched again or evicted
      encamp attach Sampler/3    follow the output of a service's server
      encamp completion bash     print the script for a shell's completion
    """


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Common options of commands, in the order in which help shows them."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_reached = _options(
    click.option("--hosts", metavar="A,B,…",
                 help="Hosts on which the engine runs, separated by commas."),
    click.option("--hostfile", metavar="FILE", shell_complete=files,
                 help="File with these hosts, in the format of mpirun."),
    click.option("-o", "--option", "more", multiple=True, metavar="NAME=VALUE",
                 help="Any other option of the engine, such as mpi=openmpi or machine=own."),
)  # fmt: skip
"""An engine's options."""


_running = _options(
    click.option("-e", "--engine", default="local", metavar="NAME", show_default=True,
                 shell_complete=engines,
                 help="Engine to run on: local, mpi, pvm, dask, ipyparallel."),
    click.option("-n", "-j", "--slots", type=click.IntRange(min=1), help="Number of slots  "
                 "[default: one for each core]"),
    _reached,
    click.option("--retries", type=click.IntRange(min=0), metavar="N",
                 help="Retry a failed task up to N times; overrides the job's setting."),
    click.option("--time-limit", metavar="TIME",
                 help="Time limit of one attempt, such as 30 (seconds), '5 min' or 2h; overrides "
                 "the job's setting."),
    click.option("--max-failures", type=click.IntRange(min=1), metavar="N",
                 help="Start no more tasks after N failures; tasks that are already running are "
                 "allowed to finish."),
    click.option("-f", "--force", is_flag=True, help="Run all tasks, even if they are up to date."),
    click.option("--dry-run", is_flag=True, help="Only show what would run, and why."),
    click.option("--keep", type=click.Choice(["never", "failed", "always"]), default="never",
                 show_default=True, help="Which task folders to keep."),
    click.option("--shared", is_flag=True,
                 help="Let all members of the job folder's group run the job."),
    click.option("--only", multiple=True, metavar="PATTERN",
                 help="Run only tasks whose names match this pattern, and the tasks they depend "
                 "on; can be repeated."),
    click.option("--failed", is_flag=True, help="Run only tasks that failed in their last run."),
    click.option("-q", "--quiet", is_flag=True, help="Print only failures."),
)  # fmt: skip
"""Options of commands that run tasks."""


@cli.command(help=_RUN, cls=_Run)
@click.argument("job", metavar="JOB.toml|SCRIPT.py", shell_complete=files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_running
@click.option("--to", metavar="FOLDER", help="Destination, instead of the one in the job file.")
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
    help="Destination: the folder for results, and for the job's own folder with report and logs.",
)
@click.option(
    "--outputs",
    "--output",
    multiple=True,
    metavar="PATTERN",
    help="Files to publish from each task's folder, such as '*.sorted'; can be repeated.",
)
@click.option(
    "--into",
    default=".",
    metavar="FOLDER",
    help="Folder inside the destination for these files, such as '{parent}'.",
)
@click.option("--no-outputs", is_flag=True, help="Publish no outputs; only run the command.")
@click.option(
    "--stdout", metavar="NAME", help="File for the command's standard output; it is published, too."
)
@click.option(
    "--values",
    metavar="NAME",
    help="File with the task's values for results.csv: .json, .csv, or lines with name and value.",
)
@click.option(
    "--stdin",
    metavar="NAME",
    help="File in the task's folder as the command's standard input.",
)
@click.option(
    "--mirror",
    multiple=True,
    metavar="PATTERN",
    help="More files that the command needs in its folder; can be repeated.",
)
@click.option(
    "--csv", metavar="FILE", help="Table with one task per row; its columns are placeholders."
)
@click.option("--lines", metavar="FILE", help="File with one task per line; {line} is the line.")
@click.option(
    "--foreach",
    multiple=True,
    metavar="NAME=VALUES",
    help="A task for each value: corner=tt,ff or run=1..70 or run=1..70..3 (every third); "
    "if repeated, a task for each combination.",
)
@click.option(
    "-0",
    "--null",
    is_flag=True,
    help="Names on standard input end with null bytes (find -print0).",
)
@click.option(
    "--shell", is_flag=True, help="Run the command with /bin/sh, for pipes, > and variables."
)
@click.option(
    "--bash",
    is_flag=True,
    help="Run the command with bash; a pipeline fails if any part fails.",
)
@click.option(
    "--env",
    multiple=True,
    metavar="NAME=VALUE",
    help="Environment variable for the command; can be repeated.",
)
@click.option("--name", help="The job's name  [default: map- and the command's first word]")
@click.option("--task", metavar="NAME", help="Names of the tasks  [default: {stem}, or the values]")
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
@click.option(
    "--hosts", metavar="A,B,…", help="Clean these hosts instead of this one, through ssh."
)
@click.option(
    "--python",
    metavar="PATH",
    help="Python interpreter on these hosts  [default: same path]",
)
def clean(**options: object) -> None:
    from encamp.cli.clean import clean_command

    clean_command(**options)  # type: ignore[arg-type]


@cli.group(help=_CACHE)
def cache() -> None:
    pass


@cache.command("list")
def cache_list() -> None:
    """List the inputs in the cache, least recently used first.

    \b
      encamp cache list
    """
    from encamp.cli.cache import list_command

    list_command()


@cache.command("why")
@click.argument("file")
def cache_why(file: str) -> None:
    """Show how an input is mirrored now, and its history.

    The history shows why the input was fetched, fetched again, evicted or refused by the cache.

    \b
      encamp cache why data/dem.tif
    """
    from encamp.cli.cache import why_command

    why_command(file)


@cache.command("clear")
@click.option("--dry-run", is_flag=True, help="Only show how many bytes would be removed.")
def cache_clear(dry_run: bool) -> None:
    """Remove every input from the cache that no task is using now.

    \b
      encamp cache clear --dry-run   only show how much would be removed
      encamp cache clear
    """
    from encamp.cli.cache import clear_command

    clear_command(dry_run=dry_run)


@cli.command(help=_STATUS)
@click.argument("place", metavar="JOB.toml|DESTINATION", shell_complete=folders)
@click.option("--follow", is_flag=True, help="Show changes until none of the jobs is running.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--shared", is_flag=True, help=_SHARED)
def status(place: str, *, shared: bool, follow: bool, as_json: bool) -> None:
    from encamp.cli.status import status_command

    status_command(Path(place), shared=shared, follow=follow, as_json=as_json)


@cli.command(help=_ATTACH)
@click.argument("name", required=False)
@click.option("--program", type=int, metavar="PID",
              help="Process id of the program, if several have a server of this name.")  # fmt: skip
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
@click.option("--keep", is_flag=True, help="Keep the folder afterwards, and show its path.")
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
              help="Engine whose hosts to check: local, mpi, pvm, dask, ipyparallel.")  # fmt: skip
@click.option(
    "-n",
    "--slots",
    type=click.IntRange(min=1),
    help="Number of slots to start.",
)
@_reached
def doctor(destination: str | None, **options: object) -> int:
    from encamp.cli.doctor.doctor_command import doctor_command

    return doctor_command(destination, **options)  # type: ignore[arg-type]


def main() -> NoReturn:
    """Entry point. Ends the process with the exit status; bad input never gives a traceback."""
    name_standard_streams()
    command_signals()
    atexit.register(gc.freeze)  # skip garbage collection at exit, when all memory is freed anyway
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold any character
    sys.exit(flushed(exit_status(cli)))

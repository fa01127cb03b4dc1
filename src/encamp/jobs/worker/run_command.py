"""Command lines as steps: each in its own process, in the task's folder."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from encamp.errors import CommandNotFound, StepFailed, printable, text_of
from encamp.jobs.steps import Command
from encamp.process_endings import ending_text
from encamp.slot.isolation.process_tree import end_descendants
from encamp.slot.numerical_threads import with_chosen
from encamp.storage.inputs.mirror import safe_target
from encamp.timeouts import GRACE

if TYPE_CHECKING:
    from resource import struct_rusage

_LONGEST_WORD = 32 * os.sysconf("SC_PAGESIZE")
"""Bytes of one word of a command line, including its end, see execve(2)."""
_FILE = "write it to a file that the command reads"


def run_command(command: Command, folder: Path, task: str) -> int:
    """Run a command line and wait for it; returns its peak memory in bytes.

    Raises `CommandNotFound`, or `StepFailed` if its exit status is not 0.
    """
    with ExitStack() as files:
        process = _start(command, folder, task, files)
        status, usage = _waited(process)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise StepFailed(task, command.label, process.returncode, ending_text(process.returncode))
    return usage.ru_maxrss * 1024


def _waited(process: subprocess.Popen[bytes]) -> tuple[int, struct_rusage]:
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        end_descendants(GRACE)  # the time that Python steps get, too
        raise
    return status, usage


def _start(command: Command, folder: Path, task: str, files: ExitStack) -> subprocess.Popen[bytes]:
    words = _words(command)
    environment = with_chosen(command.env) if command.env else None
    program = _find_program(words[0], (environment or os.environ).get("PATH"))
    if program is None and not ("/" in words[0] and (folder / words[0]).exists()):
        raise CommandNotFound(task, words[0], socket.gethostname())
    try:
        return subprocess.Popen(
            list(words),
            executable=program,
            cwd=folder,
            env=environment,
            stdin=_opened(folder, command.stdin, "rb", files),
            stdout=_opened(folder, command.stdout, "wb", files) if command.stdout else None,
            process_group=0,  # so that `kill 0` in it ends only its own processes
        )
    except (OSError, ValueError) as exc:
        cause = f"could not start: {_reason(exc, folder, words, environment or os.environ)}"
        raise StepFailed(task, command.label, None, cause) from exc


def _words(command: Command) -> Sequence[str]:
    if not isinstance(command.line, str):
        return command.line
    shell = ["bash", "-o", "pipefail"] if command.shell == "bash" else ["/bin/sh"]
    return [*shell, "-c", command.line]


def _find_program(word: str, path: str | None) -> str | None:
    """The program of a command's first word, looked up once if the result cannot vary."""
    known = _programs.get((word, path or ""))
    if known is not None and os.access(known, os.X_OK):
        return known
    program = shutil.which(word, path=path)
    if program and path and "/" not in word and all(map(os.path.isabs, path.split(os.pathsep))):
        _programs[word, path] = program
    return program


_programs: dict[tuple[str, str], str] = {}


def _opened(folder: Path, name: str | None, mode: str, files: ExitStack) -> IO[bytes] | int:
    if name is None:
        return subprocess.DEVNULL
    file: IO[bytes] = (folder / safe_target(name)).open(mode)
    return files.enter_context(file)


def _reason(
    exc: OSError | ValueError, folder: Path, words: Sequence[str], environment: Mapping[str, str]
) -> str:
    if not isinstance(exc, OSError):
        return text_of(exc)
    if exc.errno == errno.E2BIG:
        return _too_long(words, environment)
    name = os.fsdecode(exc.filename or "").removeprefix(f"{folder}/")
    if exc.errno == errno.ENOENT and "/" in name and (folder / name).is_file():
        return f"the interpreter that {printable(name)} names in its first line is missing"
    file = f": {printable(name)}" if name else ""
    return f"{(exc.strerror or str(exc)).lower()}{file}"


def _too_long(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """The part of a command line that is too long, see execve(2)."""
    variables = [f"{name}={text}" for name, text in environment.items()]
    long = [what for what in (*words, *variables) if len(os.fsencode(what)) >= _LONGEST_WORD]
    if long:
        kind = "a word" if long[0] in words else f"the variable {long[0].partition('=')[0]}"
        size, most = len(os.fsencode(long[0])), _LONGEST_WORD - 1
        return f"its command line is too long: {kind} has {size} bytes, {most} are allowed; {_FILE}"
    size, beside = (sum(len(os.fsencode(what)) + 1 for what in all_) for all_ in (words, variables))
    return f"its command line is too long: {size} bytes, with {beside} of environment; {_FILE}"

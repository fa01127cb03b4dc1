"""Command lines as steps: each in a process of its own, in the task's folder."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from encamp.agent.process import GRACE
from encamp.agent.processes import end_descendants
from encamp.errors import CommandNotFound, StepFailed, printable
from encamp.jobs.steps import Command
from encamp.storage.mirror import safe_target


def run_command(command: Command, folder: Path, task: str) -> int:
    """Run a command line and wait for it; returns its peak memory in bytes.

    Raises `CommandNotFound`, or `StepFailed` if it does not end with exit status 0.
    """
    with ExitStack() as files:
        process = _start(command, folder, task, files)
        status, usage = _waited(process)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise StepFailed(task, command.label, process.returncode, _ending(process.returncode))
    return usage.ru_maxrss * 1024


def _waited(process: subprocess.Popen[bytes]) -> tuple[int, resource.struct_rusage]:
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        end_descendants(GRACE)  # the time to end in good order that Python's own steps have too
        raise
    return status, usage


def _start(command: Command, folder: Path, task: str, files: ExitStack) -> subprocess.Popen[bytes]:
    words = ["/bin/sh", "-c", command.line] if isinstance(command.line, str) else command.line
    environment = {**os.environ, **command.env}
    program = shutil.which(words[0], path=environment.get("PATH"))
    if program is None and not ("/" in words[0] and (folder / words[0]).exists()):
        raise CommandNotFound(task, words[0], socket.gethostname())
    try:
        return subprocess.Popen(
            list(words),
            cwd=folder,
            env=environment,
            stdin=_opened(folder, command.stdin, "rb", files),
            stdout=_opened(folder, command.stdout, "wb", files) if command.stdout else None,
        )
    except (OSError, ValueError) as exc:
        cause = f"could not start: {_reason(exc, folder)}"
        raise StepFailed(task, command.label, None, cause) from exc


def _opened(folder: Path, name: str | None, mode: str, files: ExitStack) -> IO[bytes] | int:
    if name is None:
        return subprocess.DEVNULL
    file: IO[bytes] = (folder / safe_target(name)).open(mode)
    return files.enter_context(file)


def _reason(exc: OSError | ValueError, folder: Path) -> str:
    if not isinstance(exc, OSError):
        return str(exc)
    name = os.fsdecode(exc.filename or "").removeprefix(f"{folder}/")
    file = f": {printable(name)}" if name else ""
    return f"{(exc.strerror or str(exc)).lower()}{file}"


def _ending(code: int) -> str:
    return f"ended with exit status {code}" if code > 0 else f"was ended by signal {-code}"

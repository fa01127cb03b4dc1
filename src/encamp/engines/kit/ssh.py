"""Programs on other hosts that end with this one: through ssh, or through srun in Slurm.

A program reads its orders from its standard input, writes ``ready`` to its standard output, and
ends when its standard input does. This keeps secrets out of command lines, and leaves no program
behind when this process is killed.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO

from encamp import slurm
from encamp.engines.kit.hostfile import HostLine
from encamp.engines.kit.mesh.addresses import address_towards_login
from encamp.engines.kit.own_interpreter import PACKAGE, START, python_command
from encamp.engines.kit.ssh_logins import LogIns, refused
from encamp.errors import BadJob, EngineUnavailable, printable
from encamp.timeouts import LOGS_IN
from encamp.wire.wait_for_descriptor import readable

SSH = "ENCAMP_SSH"
"""The environment variable with the command that logs in to hosts; by default ``ssh``."""
QUIET = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={LOGS_IN:g}")
"""Options that keep ssh from asking for anything."""
READY = b"ready\n"
_AT_ONCE = 64


def remote_command() -> list[str]:
    """The command that logs in to hosts; raises `BadJob`."""
    given = os.environ.get(SSH) or "ssh"
    try:
        words = shlex.split(given)
    except ValueError:
        words = []
    if not words:
        raise BadJob(f"{SSH}={given!r}", "is not a command; write it as in a shell")
    return [*words, *(QUIET if words[0].endswith("ssh") else ())]


def command_on(host: HostLine, words: Sequence[str]) -> list[str]:
    """The command that starts a program on a host; raises `BadJob`."""
    if host.here:
        return list(words)
    if slurm.job_id() is not None:
        step = ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host.name}"]
        return [*step, *words]
    return [*remote_command(), "--", host.name, shlex.join(words)]


def address_towards_hosts(hosts: Sequence[HostLine]) -> str:
    """The address at which this host can be reached from others, or loopback if there are none."""
    there = [host.name for host in hosts if not host.here]
    if not there:
        return "127.0.0.1"
    shell = ["ssh"] if slurm.job_id() is not None else remote_command()
    return address_towards_login(there[0], shell) or socket.gethostbyname(socket.gethostname())


class RemotePrograms:
    """A module of encamp that runs on each of some hosts, for an engine.

    ``orders`` are the lines that it reads there. Blocks until all have reported that they are
    ready. Raises `EngineUnavailable` if one does not ``within`` seconds; then all are ended.
    """

    def __init__(
        self,
        engine: str,
        module: str,
        hosts: Sequence[HostLine],
        orders: Sequence[str],
        within: float,
    ) -> None:
        self._until = time.monotonic() + within
        self._programs: list[_Program] = []
        self._log_ins = LogIns(within)
        words = [*python_command(), "-c", START, PACKAGE, module]
        try:
            with ThreadPoolExecutor(min(_AT_ONCE, len(hosts))) as pool:
                started = [
                    pool.submit(self._start, host, command_on(host, words), order)
                    for host, order in zip(hosts, orders, strict=True)
                ]
            faults = [why for one in started if (why := one.result())]
            if faults:
                remedy = (
                    "check that ssh gets there without a password, and that encamp is "
                    "installed there"
                )
                raise EngineUnavailable(engine, "; ".join(faults), remedy)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End them; blocks until they have ended, or have been killed. Idempotent."""
        for program in self._programs:
            program.ask_to_end()
        until = time.monotonic() + LOGS_IN
        for program in self._programs:
            program.end(max(0.0, until - time.monotonic()))
        self._programs = []

    def _start(self, host: HostLine, command: list[str], order: str) -> str:
        """Start a program, again if the login was refused; returns why it is not ready."""
        program = self._log_ins.call(
            lambda: _Program(command, order, self._until), lambda one: one.refused
        )
        if program.why:
            return f"{host.name}: {program.why}"
        self._programs.append(program)
        return ""


class _Program:
    """A program; ``why`` is why it does not run, ``refused`` whether the login was refused."""

    def __init__(self, command: list[str], order: str, until: float) -> None:
        self.why, self.refused = "", False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            self.why = f"{command[0]}: {exc.strerror}"
            self._errors.close()
            return
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        with suppress(BrokenPipeError):
            self._stdin.write(order.encode() + b"\n")
            self._stdin.flush()
        if not self._becomes_ready(until):
            self.why = self._last_words() or "it does not answer"
            self.refused = refused(self._process.poll(), self.why)
            self.ask_to_end()
            self.end(LOGS_IN)

    def _becomes_ready(self, until: float) -> bool:
        while readable(self._stdout, until - time.monotonic()):
            line = self._stdout.readline()
            if line == READY:
                return True
            if not line:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(1)
                return False
        return False

    def _last_words(self) -> str:
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4096))
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return printable(lines[-1]) if lines else ""

    def ask_to_end(self) -> None:
        """Close its standard input."""
        with suppress(OSError):
            self._stdin.close()

    def end(self, within: float) -> None:
        """Wait for its end, and kill the local ssh after that."""
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()
        self._errors.close()

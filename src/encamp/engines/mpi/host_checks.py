"""The hosts of an MPI job: how they are reached, and why a host cannot be used.

Launchers describe problems of a host in many ways, or wait for minutes. When a job does not start,
the hosts are tested with the launcher's own remote shell.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NamedTuple

import psutil

from encamp.engines.kit.hostfile import HostLine
from encamp.engines.kit.mesh.addresses import address_towards
from encamp.engines.kit.own_interpreter import python_command, python_here
from encamp.engines.kit.ssh import command_on
from encamp.engines.kit.ssh_logins import LogIns, refused
from encamp.engines.mpi.mpi_variables import BATCH_SYSTEMS, REMOTE_SHELL

_SHELLS = ("ssh", "rsh")
_NO_SHELL = 255
"""Exit status of a remote shell that did not reach its host."""
_NO_COMMAND = (126, 127)
_MOST_AT_ONCE = 64
_THERE = "encamp-is-asking"
_CHECK = (
    "import os, sys; sys.path.append(sys.argv[1]); import mpi4py, encamp.agent; "
    "from encamp.engines.mpi.leftovers import clear; clear(); "
    "sys.exit(not os.access(sys.argv[2], os.X_OK) and f'there is no {sys.argv[2]}')"
)


def remote_shell(given: str | None, mpi: str) -> list[str] | None:
    """The command that a launcher uses to reach hosts; None if it uses none."""
    variables: Mapping[str, str] = os.environ
    named = given or next((variables[n] for n in REMOTE_SHELL[mpi] if variables.get(n)), None)
    if named:
        return shlex.split(named)
    other = mpi == "mpich" and variables.get("HYDRA_LAUNCHER", "ssh") not in _SHELLS
    if other or any(name in variables for name in BATCH_SYSTEMS) or not shutil.which("ssh"):
        return None
    return ["ssh"]


def command_by(shell: Sequence[str] | None) -> Callable[[HostLine, Sequence[str]], list[str]]:
    """A function that returns the command to run a program on a host through a remote shell.

    Without ``shell`` it is the command that encamp itself uses.
    """
    if shell is None:
        return command_on
    return lambda host, words: [*shell, host.name, shlex.join(words)]


def interface_towards(address: str) -> str | None:
    """The network interface that this host uses to reach an address, or that has the address."""
    source = address_towards(address)
    for name, addresses in psutil.net_if_addrs().items():
        if source in [one.address for one in addresses]:
            return name
    return None


class HostChecks:
    """Checks hosts, all at once and in other threads.

    Usable hosts also remove what was left by a job that was ended while MPI started. ``launcher``
    is the program that each host needs, ``package`` a folder where encamp may be.
    """

    def __init__(
        self,
        hosts: Sequence[HostLine],
        shell: Sequence[str],
        launcher: str,
        package: str,
        within: float,
    ) -> None:
        there = [host.name for host in hosts if not host.here]
        program = shlex.join([*python_command(), "-c", _CHECK, package, launcher])
        self._command, self._within = f"echo {_THERE}; {program}", within
        self._asked: set[subprocess.Popen[str]] = set()
        self._log_ins = LogIns(within)
        self._ended = False
        self._pool = ThreadPoolExecutor(min(len(there), _MOST_AT_ONCE) or 1)
        self._answers = {name: self._pool.submit(self._ask, [*shell, name]) for name in there}

    @property
    def answered(self) -> bool:
        """Whether all hosts have answered."""
        return all(answer.done() for answer in self._answers.values())

    def faults(self) -> dict[str, str]:
        """The faults of unusable hosts, by name; blocks until all have answered, and ends."""
        try:
            wait(self._answers.values())
            return {name: found.result() for name, found in self._answers.items() if found.result()}
        finally:
            self.end()

    def end(self) -> None:
        """Stop waiting for answers. Idempotent."""
        self._ended = True
        self._log_ins.end()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for asked in list(self._asked):
            with suppress(OSError):
                os.killpg(asked.pid, signal.SIGKILL)

    def _ask(self, shell: list[str]) -> str:
        """The fault of a host; empty if it can be used."""
        return self._log_ins.call(lambda: self._answer(shell), lambda answer: answer.refused).fault

    def _answer(self, shell: list[str]) -> _Answer:
        """The answer of a host, which first prints a word, since Python may start slowly."""
        try:
            asked = subprocess.Popen(
                [*shell, self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that ssh cannot prompt for a password
                text=True,
                errors="replace",
            )
        except OSError as exc:
            return _Answer(f"cannot be reached: {shell[0]}: {exc.strerror}")
        with asked:
            self._asked.add(asked)
            try:
                output, errors = asked.communicate(timeout=0 if self._ended else self._within)
            except subprocess.TimeoutExpired:
                os.killpg(asked.pid, signal.SIGKILL)
                output, _ = asked.communicate()
                silent = f"does not answer within {self._within:g} s"
                return _Answer("" if _THERE in output else silent)
            finally:
                self._asked.discard(asked)
        fault = _meaning(asked.returncode, _THERE in output, errors)
        return _Answer(fault, refused(asked.returncode, errors))


class _Answer(NamedTuple):
    fault: str
    refused: bool = False
    """Whether a login was refused because there were too many at once."""


def _meaning(code: int, reached: bool, errors: str) -> str:
    last = (errors.strip().splitlines() or [f"exit status {code}"])[-1].strip()
    if not reached:
        return f"cannot be reached: {last}"
    if code in _NO_COMMAND:
        return f"has no Python at {python_here()}"
    if missing := re.search(r"No module named '?(\w+)", last):
        return f"has no {missing[1]} for {python_here()}"
    return f"cannot be used: {last}" if code and code != _NO_SHELL else ""

"""The numbers of cores of hosts, for engines that need them before they start anything."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from encamp import cores_and_memory
from encamp.engines.kit.hostfile import HostLine
from encamp.engines.kit.own_interpreter import PACKAGE, START, python_command
from encamp.engines.kit.ssh_logins import LogIns, refused
from encamp.timeouts import LOGS_IN

_AT_ONCE = 64


def with_cores(
    hosts: Sequence[HostLine],
    command: Callable[[HostLine, Sequence[str]], list[str]],
    within: float,
) -> list[HostLine]:
    """The hosts, with as many slots as cores if their lines give no number.

    ``command`` returns the words that run a program on a host. Blocks until all have answered, at
    most ``within`` seconds. A host that does not answer gets one slot; the engine reports the
    reason when it starts there.
    """
    within = min(within, LOGS_IN)
    log_ins = LogIns(within)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda host: _with_cores(host, command, log_ins, within), hosts))


def _with_cores(
    host: HostLine,
    command: Callable[[HostLine, Sequence[str]], list[str]],
    log_ins: LogIns,
    within: float,
) -> HostLine:
    if host.slots:
        return host
    if host.here:
        return replace(host, slots=cores_and_memory.cores())
    words = command(host, [*python_command(), "-c", START, PACKAGE, cores_and_memory.__name__])
    answer = log_ins.call(lambda: _run(words, within), lambda one: refused(one[0], one[2]))
    with suppress(ValueError, IndexError):
        return replace(host, slots=max(1, int(answer[1].split()[-1])))
    return replace(host, slots=1)


def _run(words: Sequence[str], within: float) -> tuple[int, str, str]:
    """Exit status, output and errors of a command; without a terminal, so that nothing prompts."""
    try:
        ended = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within,
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 1, "", ""
    return ended.returncode, ended.stdout, ended.stderr

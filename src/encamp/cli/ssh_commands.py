"""Commands on other hosts through ssh, on all of them at the same time."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from encamp.engines.kit.own_interpreter import python_here
from encamp.engines.kit.ssh import SSH, remote_command
from encamp.engines.kit.ssh_logins import LogIns, refused

_WITHIN = 600.0
_AT_ONCE = 64
_NO_COMMAND = (126, 127)
"""Exit statuses of a shell that cannot run a command."""


@dataclass(frozen=True)
class HostOutput:
    """The output of a command on a host; ``why`` is empty if it succeeded."""

    host: str
    lines: list[str]
    why: str
    refused: bool = False
    """Whether the host has refused the login because of too many others at the same time."""


def encamp_on(
    hosts: Sequence[str], arguments: Sequence[str], python: str | None
) -> list[HostOutput]:
    """Run the command encamp on hosts; blocks until it has ended on all.

    ``python`` is the interpreter there, by default at the path of this one.
    """
    return log_in(hosts, shlex.join([python or python_here(), "-m", "encamp", *arguments]))


def log_in(hosts: Sequence[str], line: str, within: float = _WITHIN) -> list[HostOutput]:
    """Run a line in the login shell of each host, for at most ``within`` seconds; blocks."""
    ssh, log_ins = remote_command(), LogIns()

    def on(host: str) -> HostOutput:
        return log_ins.call(lambda: _on(ssh, line, host, within), lambda output: output.refused)

    with ThreadPoolExecutor(min(len(hosts), _AT_ONCE)) as pool:
        return list(pool.map(on, hosts))


def _on(ssh: list[str], command: str, host: str, within: float) -> HostOutput:
    try:
        done = subprocess.run(
            [*ssh, "--", host, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within,
        )
    except FileNotFoundError:
        return HostOutput(
            host, [], f"there is no command {ssh[0]}; install it, or name one in {SSH}"
        )
    except subprocess.TimeoutExpired:
        return HostOutput(host, [], f"it timed out: no answer within {within:g} s")
    except OSError as exc:
        return HostOutput(host, [], str(exc))
    why = "" if done.returncode == 0 else _last(done.stderr) or f"exit status {done.returncode}"
    if done.returncode in _NO_COMMAND:
        why += "; name a Python there that has encamp: --python"
    return HostOutput(host, done.stdout.splitlines(), why, refused(done.returncode, done.stderr))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""

"""Commands on other hosts, through ssh, on all of them at the same time."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

SSH = "ENCAMP_SSH"
"""The environment variable that says which command logs in to hosts; ``ssh`` by default."""
_QUIET = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
_WITHIN = 600.0


@dataclass(frozen=True)
class Said:
    """What a command said on a host; ``why`` is empty if it ended well."""

    host: str
    lines: list[str]
    why: str


def encamp_on(hosts: Sequence[str], arguments: Sequence[str], python: str | None) -> list[Said]:
    """Run the command encamp on hosts; blocks until it has ended on all.

    ``python`` is the interpreter there, by default at the path that this one has here.
    """
    words = [python or sys.executable, "-m", "encamp", *arguments]
    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(partial(_on, " ".join(map(shlex.quote, words))), hosts))


def _on(command: str, host: str) -> Said:
    ssh = shlex.split(os.environ.get(SSH) or "ssh")
    options = _QUIET if ssh[0].endswith("ssh") else ()
    try:
        done = subprocess.run(
            [*ssh, *options, "--", host, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_WITHIN,
        )
    except FileNotFoundError:
        return Said(host, [], f"there is no command {ssh[0]}; install it, or name one in {SSH}")
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Said(host, [], str(exc))
    why = "" if done.returncode == 0 else _last(done.stderr) or f"exit status {done.returncode}"
    return Said(host, done.stdout.splitlines(), why)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""

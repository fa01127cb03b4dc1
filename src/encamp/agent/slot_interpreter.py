"""Another interpreter for the slots of a host: find it, and check that it can run slots."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import lru_cache

from encamp.errors import BadJob
from encamp.timeouts import STARTS
from encamp.version import __version__

_ASKED = """\
import sys
folders = sys.argv[1:]
sys.path += [folder for folder in folders if folder not in sys.path]
from encamp.version import __version__
import encamp.slot.main
print(sys.implementation.name, *sys.version_info[:2], __version__)
"""
_LONGEST = 200


def found(interpreter: str, environment: dict[str, str]) -> str:
    """The path of an interpreter that can run slots of this process. Raises `BadJob`.

    A name without a folder is looked up in the environment's ``PATH``.
    """
    return _found(interpreter, tuple(sorted(environment.items())), tuple(filter(None, sys.path)))


@lru_cache(8)
def _found(
    interpreter: str, environment: tuple[tuple[str, str], ...], folders: tuple[str, ...]
) -> str:
    variables = dict(environment)
    name = os.path.expanduser(interpreter)
    path = shutil.which(name, path=variables.get("PATH"))
    if path is None:
        raise BadJob(_named(interpreter), "this host has no such program")
    command = [path, "-P", "-c", _ASKED, *folders]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            env=variables,
            stdin=subprocess.DEVNULL,
            timeout=STARTS,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BadJob(_named(interpreter), f"it cannot be started: {exc}") from exc
    output = done.stdout.decode("utf-8", "replace").split()
    if done.returncode or len(output) != len(_own()):
        words = done.stderr.decode("utf-8", "replace").strip()[-_LONGEST:]
        why = f"it exited with status {done.returncode} when asked for its version: {words}"
        raise BadJob(_named(interpreter), why)
    if output != _own():
        its, ours = (f"{name} {a}.{b} with encamp {c}" for name, a, b, c in (output, _own()))
        raise BadJob(
            _named(interpreter), f"it is {its}, and this host's agent {ours}; use the same version"
        )
    return path


def _own() -> list[str]:
    major, minor = sys.version_info[:2]
    return [sys.implementation.name, str(major), str(minor), __version__]


def _named(interpreter: str) -> str:
    return f"interpreter {interpreter!r}"

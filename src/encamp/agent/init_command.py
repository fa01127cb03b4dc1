"""A user's command that runs on a host before its slots start; they get its environment."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache

from encamp.errors import BadJob

_SHELLS_OWN = {"_", "SHLVL", "PWD", "OLDPWD"}
_LONGEST = 200


def environment_after(command: str, before: dict[str, str]) -> dict[str, str]:
    """The environment that a shell command leaves behind. Raises `BadJob`."""
    return dict(_after(command, tuple(sorted(before.items())))) if command else before


@lru_cache(8)
def _after(command: str, before: tuple[tuple[str, str], ...]) -> dict[str, str]:
    line = f"{{ {command}\n}} >&2 && env -0"
    shell = ["/bin/sh", "-c", line]
    done = subprocess.run(shell, capture_output=True, check=False, env=dict(before))
    if done.returncode:
        output = done.stderr.decode("utf-8", "replace").strip()[-_LONGEST:]
        raise BadJob(
            f"init_command {command!r}", f"it exited with status {done.returncode}: {output}"
        )
    pairs = [os.fsdecode(entry).partition("=") for entry in done.stdout.split(b"\0") if entry]
    after = {name: text for name, _, text in pairs if name not in _SHELLS_OWN}
    return {**{name: text for name, text in before if name in _SHELLS_OWN}, **after}

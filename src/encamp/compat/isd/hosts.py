"""Hosts as the ISD grid describes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from encamp.agent.init_command import environment_after
from encamp.errors import BadJob
from encamp.services.argument_checks import texts


@dataclass
class Host:
    """A machine, and how servers run there.

    ``temp_path`` is their working folder, ``niceness`` is added to theirs, and ``python`` is their
    interpreter, if it is not the cluster's. ``init_cmd`` is a shell command that runs before;
    servers get the environment that it leaves.
    """

    name: str = "localhost"
    temp_path: str = ""
    n_cpu: int = 1
    niceness: int = 0
    python: str = ""
    init_cmd: str = ""

    def __post_init__(self) -> None:
        if self.init_cmd.rstrip().endswith("!"):
            raise BadJob(
                f"init_cmd {self.init_cmd!r} of {self.name}",
                "a wrapper of the interpreter is not supported; use niceness, a command, or a "
                "script as python",
            )

    @property
    def own_python(self) -> str:
        """The interpreter of its servers; empty if it is the cluster's."""
        usual = ("", "python", "python3", sys.executable)
        return "" if self.python in usual else self.python

    def enter(self, source: str) -> None:
        """Set up a server of this host: its environment, niceness, folder and import path."""
        if self.init_cmd:
            os.environ.update(environment_after(self.init_cmd, dict(os.environ)))
        if self.niceness:
            os.nice(self.niceness)
        if self.temp_path:
            Path(self.temp_path).mkdir(parents=True, exist_ok=True)
            os.chdir(self.temp_path)
        if source:
            sys.path.insert(0, source)


def create_host_list(
    names: str | Iterable[str],
    temp_path: str = "",
    n_cpu: int = 1,
    niceness: int = 0,
    python: str = "",
    init_cmd: str = "",
) -> list[Host]:
    """A `Host` for each name; a repeated name stands for one more server there."""
    given = names.split() if isinstance(names, str) else texts("names", names)
    return [Host(name, temp_path, n_cpu, niceness, python, init_cmd) for name in given]

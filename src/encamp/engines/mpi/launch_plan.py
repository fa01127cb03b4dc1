"""The input of an MPI's launcher: its command line, variables and hostfile."""

from __future__ import annotations

import json
import os
import shutil
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from encamp.engines.kit.hostfile import HostLine
from encamp.engines.kit.mesh.addresses import address_towards_login
from encamp.engines.kit.own_interpreter import PACKAGE, START, python_command
from encamp.engines.mpi.find_launcher import Launcher, output_of
from encamp.engines.mpi.host_checks import HostChecks, remote_shell
from encamp.engines.mpi.libraries import libraries_for_hosts, with_libraries
from encamp.engines.mpi.mpi_variables import (
    CONTROLLER,
    DEFAULT_FOR_RANKS,
    DEFAULTS,
    HOME,
    KEPT_BACK,
    NETMOD,
    PROVIDER,
    REMOTE_SHELL,
    SENT_TO_HOSTS,
    SHARED_MEMORY,
    prefers_ucx,
)
from encamp.search_paths import whole_search_path

_START = (
    "import os; "
    f"kept = os.path.dirname(os.environ.get({HOME!r}, '')) + '/{KEPT_BACK}'; "
    "os.path.exists(kept) and os.environb.update("
    "one.split(b'=', 1) for one in open(kept, 'rb').read().split(b'\\0') if one); "
    f"{START}"
)
"""The folder where ranks find encamp if it is not installed on their host."""


@dataclass(frozen=True)
class LaunchPlan:
    """The plan of an MPI job: it runs ``module`` with ``arguments`` in all ranks.

    Rank 0 is on this host. The others are here, too, or on ``hosts``, reached by ``rsh_agent``.
    """

    launcher: Launcher
    ranks: int
    hosts: tuple[HostLine, ...]
    module: str
    arguments: tuple[str, ...]
    rsh_agent: str | None = None

    @property
    def cwd(self) -> str | None:
        """The current folder of ranks, which has to exist on all hosts."""
        return "/" if self.hosts else None

    def variables(self) -> dict[str, str]:
        """Additional environment variables for the ranks and their launcher."""
        values = self._network if self.hosts else dict(SHARED_MEMORY)
        if self.launcher.library:
            values["MPI4PY_LIBMPI"] = self.launcher.library
        new = {name: value for name, value in values.items() if name not in os.environ}
        return {**new, **self._shell(), **self._defaults(), **self._libraries}

    @cached_property
    def _network(self) -> dict[str, str]:
        if self._open:
            return {}
        about = output_of(str(Path(self.launcher.path).with_name("mpichversion")))
        values = {**PROVIDER, **(NETMOD if prefers_ucx(about) else {})}
        others = [host.name for host in self.hosts if not host.here]
        shell = remote_shell(self.rsh_agent, self.launcher.mpi)
        address = address_towards_login(others[0], shell) if others and shell else None
        return {**values, CONTROLLER: address} if address else values

    def _shell(self) -> dict[str, str]:
        if self.rsh_agent is None or not self.hosts:
            return {}
        if self._open:
            return dict.fromkeys(REMOTE_SHELL["openmpi"], self.rsh_agent)
        program, _, more = self.rsh_agent.partition(" ")
        given = {"HYDRA_LAUNCHER": "ssh", "HYDRA_LAUNCHER_EXEC": shutil.which(program) or program}
        return {**given, "HYDRA_LAUNCHER_EXTRA_ARGS": more} if more else given

    def _defaults(self) -> dict[str, str]:
        values = {k: v for k, v in os.environ.items() if k.startswith(DEFAULT_FOR_RANKS)}
        if path := os.environ.get("PYTHONPATH"):  # these folders may belong to others there
            values["PYTHONPATH"] = whole_search_path(path)
        return {DEFAULTS: json.dumps(values)} if values and self.hosts else {}

    @property
    def _libraries(self) -> dict[str, str]:
        return libraries_for_hosts(os.environ) if self.hosts else {}

    def check_hosts(self, within: float) -> HostChecks:
        """Start to check the hosts, which have to answer within ``within`` seconds."""
        shell = remote_shell(self.rsh_agent, self.launcher.mpi)
        hosts = self.hosts if shell is not None else ()
        return HostChecks(hosts, shell or (), self.launcher.path, PACKAGE, within)

    def command(self, folder: Path) -> list[str]:
        """The command line; files that it needs are written into ``folder``."""
        options = ["-n", str(self.ranks)]
        if self.hosts:
            hosts = folder / "hosts"
            hosts.write_text(self._hosts())
            options += ["--hostfile" if self._open else "-f", str(hosts)]
        names = ",".join((*self.variables(), *self._set_by_launcher()))
        program = [*python_command(), "-c", _START, PACKAGE, self.module, "mpi"]
        if self._libraries:
            program = with_libraries(program)
        flags = self._open_mpi_flags() if self._open else self._hydra_flags()
        return [self.launcher.path, *flags, *options, *program, *self.arguments, f"unset={names}"]

    def _set_by_launcher(self) -> list[str]:
        return [n for n in ("LD_LIBRARY_PATH",) if not self.hosts and n not in os.environ]

    @property
    def _open(self) -> bool:
        return self.launcher.mpi == "openmpi"

    def _hosts(self) -> str:
        """A hostfile: this host first (rank 0 must reach the controller), then the user's hosts."""
        # One name for one host: with two names MPICH's ranks there conflict
        name = next((host.name for host in self.hosts if host.here), socket.gethostname())
        if not self._open:
            hosts = (HostLine(name, 1), *self.hosts)
            return "".join(f"{host.name}:{host.slots}\n" for host in hosts)
        # Open MPI wants all slots of a host in one line
        first = HostLine(name, 1 + sum(host.slots for host in self.hosts if host.here))
        lines = [first, *(host for host in self.hosts if not host.here)]
        return "".join(f"{host.name} slots={host.slots}\n" for host in lines)

    def _forwarded(self) -> list[str]:
        """The variables for ranks on other hosts."""
        given = {**os.environ, **self.variables()}
        return [name for name in given if name.startswith(SENT_TO_HOSTS)]

    def _hydra_flags(self) -> list[str]:
        """Arguments that forward only the necessary variables to other hosts."""
        names = self._forwarded()
        # The last one is sometimes lost
        return ["-genvlist", ",".join([*names, names[-1]])] if self.hosts and names else []

    def _open_mpi_flags(self) -> list[str]:
        flags = ["--oversubscribe", "--bind-to", "none"]
        if os.geteuid() == 0:
            flags.append("--allow-run-as-root")
        if self.launcher.version >= (5,):
            flags += ["--with-ft", "ulfm"]
        if self.hosts:
            flags += [word for name in self._forwarded() for word in ("-x", name)]
        return flags

"""The MPI engine: rank 0 is the controller, or a gateway to it; all other ranks are agents.

Under ``mpirun -n N python script.py`` the script of rank 0 is the controller. From a plain Python
process, or with ``encamp run --engine mpi``, the engine starts ``mpiexec`` itself. Rank 0 is then a
gateway: the controller survives the MPI job (`LaunchedMPI`), and it does not need mpi4py.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

from encamp.engines.engine_interface import Endpoint, Engine, Joined
from encamp.engines.kit.variables_not_inherited import OF_MPI_RANKS
from encamp.engines.mpi.communicator import communicator, show_process
from encamp.engines.mpi.endpoint import MPIEndpoint
from encamp.engines.mpi.finalize import exit_after_controller, finalize, let_agents_exit
from encamp.engines.mpi.host_checks import interface_towards
from encamp.engines.mpi.initialize import initialize
from encamp.engines.mpi.launched_engine import LaunchedMPI, call_home, relay
from encamp.engines.mpi.leftovers import remains_here, remove, segments_here, topology_here
from encamp.engines.mpi.libraries import take_left_out
from encamp.engines.mpi.mpi_variables import (
    CONTROLLER,
    DEFAULTS,
    IFACES,
    RANKS_HERE,
    SHARED_MEMORY,
    count_of,
    forget_variables,
    number_of_ranks,
    variables_set,
)
from encamp.engines.mpi.one_host import OneHostMPIEngine, cores_of_ranks_here
from encamp.errors import EngineFailed, EngineUnavailable
from encamp.search_paths import SEARCH_PATHS, take_search_paths
from encamp.timeouts import ALL_START

if TYPE_CHECKING:
    from types import ModuleType

    from mpi4py.MPI import Intracomm

_opened = False


def launched() -> bool:
    """Whether ``mpirun`` or the like has started this process as one of several ranks."""
    return number_of_ranks() > 1


def open_endpoint(**options: Any) -> Endpoint:
    """Open this process's endpoint: an agent's if ``mpirun`` started it as a rank other than 0.

    Otherwise it is the controller's. Options are those of `LaunchedMPI`; under ``mpirun``, the
    ranks are those that exist. Raises `EngineUnavailable` and `EngineFailed`.
    """
    if not launched():
        return LaunchedMPI(**options)
    signature(LaunchedMPI).bind(**options)  # wrong names are errors here, too
    _check_slots(options.get("slots"), number_of_ranks())
    return _open_rank(one_host=False)


def open_on_one_host() -> Endpoint:
    """`open_endpoint` under ``mpirun``; rank 0 has the slots of all ranks, if all are on its host.

    For slots that are processes. Either all ranks must call this, or none.
    """
    return _open_rank(one_host=True)


def _open_rank(*, one_host: bool) -> Endpoint:
    global _opened
    if _opened:
        why = "the ranks of this mpirun have ended with their first cluster"
        raise EngineUnavailable(
            "mpi", why, "use one cluster for everything: job.run(cluster), Executor(cluster)"
        )
    _opened = True
    private = count_of(RANKS_HERE) == number_of_ranks() and "mpi4py.MPI" not in sys.modules
    with _endable(), variables_set(SHARED_MEMORY if private else {}):
        mpi = initialize(alone=private)
        comm = communicator(mpi)
    cores = cores_of_ranks_here(comm) if one_host else None
    if comm.rank == 0:
        engine = MPIEngine(mpi, comm, private=private)
        return engine if cores is None else OneHostMPIEngine(engine, cores)
    forget_variables(OF_MPI_RANKS)
    endpoint = MPIEndpoint(mpi, comm)
    show_process(comm)
    atexit.register(exit_after_controller, endpoint, mpi, comm)
    return endpoint


takes = LaunchedMPI
"""The class with the options of `open_endpoint`."""


def _check_slots(slots: int | None, ranks: int) -> None:
    if slots not in (None, ranks - 1):
        why = f"mpirun has started {ranks} ranks, {ranks - 1} of them for slots, not {slots}"
        raise EngineUnavailable("mpi", why, "leave slots out, or start one rank more than slots")


def join(arguments: Sequence[str]) -> MPIEndpoint | None:
    """The end of an agent that `LaunchedMPI` started; None when the gateway's work is done.

    ``arguments`` are the number before the first agent's, and which environment variables were set
    for the ranks only (``unset=NAME,NAME``).
    """
    base, names = int(arguments[0]), arguments[1].removeprefix("unset=").split(",")
    signal.alarm(int(ALL_START))  # a rank without the others waits inside of MPI
    link = call_home()
    left_out = [*take_left_out(), *_take_defaults()]
    with _interface():
        mpi = initialize()
    comm = communicator(mpi)
    signal.alarm(0)
    # All ranks have opened these; they would stay if this process were killed
    remove([*segments_here(of="mpich"), *topology_here()])
    remains = remains_here(os.getppid())
    forget_variables((*OF_MPI_RANKS, *filter(None, names)))
    endpoint = MPIEndpoint(mpi, comm, base)
    endpoint.watch(show_process(comm))
    endpoint.remains, endpoint.left_out = remains, left_out
    atexit.register(finalize, endpoint, mpi)
    if comm.rank:
        endpoint.watch({0: os.getppid()})  # the parent process ends with the controller
        return endpoint
    if link is None:
        raise EngineFailed("mpi", "its rank 0 was not started on the controller's host")
    relay(endpoint, link, remains)
    return None


def _take_defaults() -> list[str]:
    """Set the controller's variables that are not set on this host.

    Returns the folders of its search paths that are not taken, see `take_search_paths`.
    """
    variables = json.loads(os.environ.pop(DEFAULTS, "{}"))
    left_out = take_search_paths(variables)
    for name, value in variables.items():
        if name not in SEARCH_PATHS:
            os.environ.setdefault(name, value)
    return left_out


def _interface() -> AbstractContextManager[None]:
    """Let OFI use the interface that reaches the controller's host, unless one is set."""
    controller = os.environ.pop(CONTROLLER, None)
    name = controller and interface_towards(controller)
    return variables_set(dict.fromkeys(IFACES, name) if name else {})


class MPIEngine(MPIEndpoint, Engine):
    """The controller's endpoint as rank 0. All ranks start and end with the script."""

    name = "mpi"
    slots_per_agent = 1

    def __init__(self, mpi: ModuleType, comm: Intracomm, *, private: bool) -> None:
        super().__init__(mpi, comm)
        self.private = private
        self.agents = self._ranks - 1
        self.watch(show_process(comm))
        atexit.register(self._release_agents)

    def start(self, orders: bytes) -> None:
        """See `Engine.start`; the agents run already."""
        self.check_open()
        for agent in range(1, self._ranks):
            self.send(agent, [orders])
            self._arrivals.append(Joined(agent))

    def check_open(self) -> None:
        """Raise `EngineFailed` if the ranks have left."""
        if self._closed:
            why = "its ranks have ended with the first cluster; use one cluster in the whole script"
            raise EngineFailed(self.name, why)

    def stop(self) -> None:
        """See `Engine.stop`. Agents that do not end are ended when the script does, by force."""
        self.close()

    def _release_agents(self) -> None:
        """At the script's end: let the agents exit, and end those that hang."""
        self.close()
        if not self.settled:
            sys.stdout.flush()
            sys.stderr.flush()
            remove(remains_here())
            self.end_watched()  # Open MPI does not, if it can continue without them
            self._comm.Abort(1)
        let_agents_exit(self._mpi, self._comm)
        if self._dead:  # Open MPI may wait for them forever
            finalize(self, self._mpi)


@contextmanager
def _endable() -> Iterator[None]:
    """Let SIGTERM end this process at once in a block that may wait inside of MPI."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)

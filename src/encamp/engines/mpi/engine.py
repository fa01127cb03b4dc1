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
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import blake2b
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encamp.engines.engine_interface import Endpoint, Engine, Joined
from encamp.engines.kit.variables_not_inherited import OF_MPI_RANKS
from encamp.engines.mpi.endpoint import IDLE, MPIEndpoint
from encamp.engines.mpi.find_launcher import REMEDY
from encamp.engines.mpi.host_checks import interface_towards
from encamp.engines.mpi.launched_engine import LaunchedMPI, call_home, relay
from encamp.engines.mpi.leftovers import remains_here, remove, segments_here, topology_here
from encamp.engines.mpi.libraries import take_left_out
from encamp.engines.mpi.mpi_variables import (
    CONTROLLER,
    DEFAULTS,
    IFACES,
    NETMOD,
    PMIX_RANK,
    PROVIDER,
    RANKS,
    RANKS_HERE,
    RANKS_OF_SLURM,
    SHARED_MEMORY,
    THREAD_LEVEL,
    prefers_ucx,
)
from encamp.engines.mpi.one_host import OneHostMPIEngine, cores_of_ranks_here
from encamp.errors import EngineFailed, EngineUnavailable
from encamp.search_paths import SEARCH_PATHS, take_search_paths
from encamp.timeouts import ALL_START

if TYPE_CHECKING:
    from types import ModuleType

    from mpi4py.MPI import Intracomm

_FINALIZE_WITHIN = 10
_LIBRARY = (
    "set MPI4PY_LIBMPI to the library that belongs to this mpirun: in packages from PyPI "
    "lib/libmpi.so.12 (MPICH) or lib/libmpi.so.40 (Open MPI)"
)
_opened = False
_EXIT = 3
"""Tag of rank 0's message that lets the others exit."""


def launched() -> bool:
    """Whether ``mpirun`` or the like has started this process as one of several ranks."""
    return _ranks() > 1


def open_endpoint(**options: Any) -> Endpoint:
    """Open this process's endpoint: an agent's if ``mpirun`` started it as a rank other than 0.

    Otherwise it is the controller's. Options are those of `LaunchedMPI`; under ``mpirun``, the
    ranks are those that exist. Raises `EngineUnavailable` and `EngineFailed`.
    """
    if not launched():
        return LaunchedMPI(**options)
    signature(LaunchedMPI).bind(**options)  # wrong names are errors here, too
    _check_slots(options.get("slots"), _ranks())
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
    private = _count(RANKS_HERE) == _ranks() and "mpi4py.MPI" not in sys.modules
    with _endable(), _variables(SHARED_MEMORY if private else {}):
        mpi = _mpi4py(alone=private)
        comm = _communicator(mpi)
    cores = cores_of_ranks_here(comm) if one_host else None
    if comm.rank == 0:
        engine = MPIEngine(mpi, comm, private=private)
        return engine if cores is None else OneHostMPIEngine(engine, cores)
    _forget(OF_MPI_RANKS)
    endpoint = MPIEndpoint(mpi, comm)
    _show_process(comm)
    atexit.register(_exit_after_controller, endpoint, mpi, comm)
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
        mpi = _mpi4py()
    comm = _communicator(mpi)
    signal.alarm(0)
    # All ranks have opened these; they would stay if this process were killed
    remove([*segments_here(of="mpich"), *topology_here()])
    remains = remains_here(os.getppid())
    _forget((*OF_MPI_RANKS, *filter(None, names)))
    endpoint = MPIEndpoint(mpi, comm, base)
    endpoint.watch(_show_process(comm))
    endpoint.remains, endpoint.left_out = remains, left_out
    atexit.register(_finalize, endpoint, mpi)
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
    return _variables(dict.fromkeys(IFACES, name) if name else {})


class MPIEngine(MPIEndpoint, Engine):
    """The controller's endpoint as rank 0. All ranks start and end with the script."""

    name = "mpi"
    slots_per_agent = 1

    def __init__(self, mpi: ModuleType, comm: Intracomm, *, private: bool) -> None:
        super().__init__(mpi, comm)
        self.private = private
        self.agents = self._ranks - 1
        self.watch(_show_process(comm))
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
        for rank in range(1, self._ranks):
            with suppress(self._mpi.Exception):
                self._comm.Isend(b"", rank, _EXIT).Free()
        if self._dead:  # Open MPI may wait for them forever
            _finalize(self, self._mpi)


def _ranks() -> int:
    """How many ranks a launcher has started; 0 if this process is not a rank."""
    return _count(RANKS) or (_count(RANKS_OF_SLURM) if PMIX_RANK in os.environ else 0)


def _count(names: Sequence[str]) -> int:
    values = [os.environ[name] for name in names if os.environ.get(name, "").isdecimal()]
    return int(values[0]) if values else 0


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block, except those that are set already."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    yield
    _forget(tuple(new))


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


def _forget(beginnings: tuple[str, ...]) -> None:
    """Remove environment variables, so that no process that is started here inherits them."""
    for name in [name for name in os.environ if name.startswith(beginnings)]:
        del os.environ[name]


def _mpi4py(*, alone: bool = True) -> ModuleType:
    """The initialised MPI library; ``alone`` if all ranks are on this host."""
    try:
        if "mpi4py.MPI" not in sys.modules:
            _one_thread_at_a_time()
            if not alone:
                return _over_ofi()
        from mpi4py import MPI
    except (ImportError, RuntimeError) as exc:
        why = ": ".join(line.strip() for line in str(exc).strip().splitlines()[:2])
        found = launched() and isinstance(exc, RuntimeError)
        raise EngineUnavailable("mpi", why, _LIBRARY if found else REMEDY) from exc
    return MPI


def _one_thread_at_a_time() -> None:
    """Request an MPI without locks, which is about 10 % faster, unless the user wants them."""
    import mpi4py

    if THREAD_LEVEL not in os.environ:
        mpi4py.rc.thread_level = "serialized"


def _over_ofi() -> ModuleType:
    """The same, with variables that select working networks before MPI is initialised."""
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    if not MPI.Is_initialized():
        library = MPI.Get_library_version()
        provider = {} if library.startswith("Open MPI") else PROVIDER
        with _variables({**provider, **(NETMOD if prefers_ucx(library) else {})}):
            MPI.Init_thread(getattr(MPI, f"THREAD_{mpi4py.rc.thread_level}".upper()))
        atexit.register(_finalize_once, MPI)
    return MPI


def _finalize_once(mpi: ModuleType) -> None:
    if not mpi.Is_finalized():
        mpi.Finalize()


def _communicator(mpi: ModuleType) -> Intracomm:
    """A separate communicator; blocks until all ranks have called this."""
    comm: Intracomm
    comm, request = mpi.COMM_WORLD.Idup()
    if comm.size != _ranks():
        remove(remains_here())  # a single rank leaves its memory behind, even after a normal end
        library = mpi.Get_library_version().strip()[:40]
        why = f"mpi4py uses {library}, but the launcher belongs to a different MPI"
        raise EngineUnavailable("mpi", why, "set MPI4PY_LIBMPI, or use the launcher of that MPI")
    if not _poll(request.Test, ALL_START):
        why = (
            f"not all ranks have opened a cluster within {ALL_START:g} s; all ranks must "
            "run the same script"
        )
        raise EngineFailed("mpi", why)
    comm.Set_errhandler(mpi.ERRORS_RETURN)
    return comm


def _show_process(comm: Intracomm) -> dict[int, int]:
    """Send rank 0 this process's id; returns, at rank 0, rank → process id for its host."""
    host = blake2b(Path("/proc/sys/kernel/random/boot_id").read_bytes(), digest_size=7)
    host.update(str(Path("/proc/self/ns/pid").readlink()).encode())
    mine = array("q", [int.from_bytes(host.digest()), os.getpid()])
    all_of_them = array("q", bytes(16 * comm.size))
    comm.Gather(mine, all_of_them if comm.rank == 0 else None)
    found = zip(all_of_them[::2], all_of_them[1::2], strict=True)
    return {rank: pid for rank, (where, pid) in enumerate(found) if rank and where == mine[0]}


def _poll(done: Callable[[], bool], timeout: float | None = None) -> bool:
    """Wait without using the core, unlike MPI's own functions; False on timeout."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while not done():
        if deadline is not None and time.monotonic() > deadline:
            return False
        time.sleep(IDLE)
    return True


def _exit_after_controller(endpoint: MPIEndpoint, mpi: ModuleType, comm: Intracomm) -> None:
    with suppress(mpi.Exception):
        _poll(comm.Irecv(bytearray(1), 0, _EXIT).Test)
    _finalize(endpoint, mpi)


def _finalize(endpoint: MPIEndpoint, mpi: ModuleType) -> None:
    """Finalize MPI, or end the process by a signal if others would block that."""
    sys.stdout.flush()
    sys.stderr.flush()
    if not endpoint.settled:
        os.kill(os.getpid(), signal.SIGKILL)  # some MPIs do not notice an exit
    if not mpi.Is_finalized():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_FINALIZE_WITHIN)
        mpi.Finalize()
        signal.alarm(0)

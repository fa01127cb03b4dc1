"""Engines by name, loaded when they are asked for.

Third parties can provide engines: an entry point in the group ``encamp.engines`` names a module
with the functions of the modules here: ``open_endpoint(**options)``, which returns this process's
endpoint of the network, and, for processes that the engine starts, ``join(arguments)``. If another
function has the options of ``open_endpoint``, it is named ``takes``. See docs/new-engine.md.
"""

from __future__ import annotations

import re
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

from encamp.engines.engine_interface import Endpoint
from encamp.errors import BadJob, EngineUnavailable, extra_text

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

_MODULES = {
    "local": ("encamp.engines.local", ""),
    "mpi": (
        "encamp.engines.mpi.engine",
        f"{extra_text('mpi')} and an MPI, such as openmpi or mpich",
    ),
    "pvm": ("encamp.engines.pvm.engine", "install PVM (Debian: apt-get install pvm libpvm3)"),
    "dask": ("encamp.engines.dask.engine", extra_text("dask")),
    "ipyparallel": ("encamp.engines.ipyparallel.engine", extra_text("ipyparallel")),
    "fake": ("encamp.testing.fake", ""),
    "mesh": ("encamp.engines.bare_mesh", ""),
}
"""Name → module, and how to install what it needs."""
_OF_HOSTS = ("hosts", "hostfile", "address")
"""Options that users give to the engine ``local`` although they need a different one."""
_OF_OBJECTS = {"distributed": "dask", "ipyparallel": "ipyparallel"}
"""Package → the engine that takes its clients and clusters."""
_GROUP = "encamp.engines"
_FOR_TESTS = {"fake", "mesh"}


def engine_names() -> list[str]:
    """The names of all engines."""
    found = {*_MODULES, *(point.name for point in _provided())}
    return sorted(found - _FOR_TESTS)


def open_endpoint(
    engine: str | Endpoint | object, start_timeout: float = 60.0, **options: Any
) -> Endpoint:
    """Open this process's endpoint of an engine's network; an open one is returned as it is.

    It is the controller's (an `Engine`), or an agent's if the process was started as one, for
    example by ``mpirun``. ``engine`` may also be an address such as ``dask://host:8786``, or a
    client of another system. An engine that waits for other processes has an option
    ``start_timeout``, in seconds. Raises `EngineUnavailable`, `BadJob`.
    """
    if isinstance(engine, Endpoint):
        return engine
    if not isinstance(engine, str):
        engine, options = _engine_of(engine), {"client": engine, **options}
    elif "://" in engine:
        engine, _, options["address"] = engine.partition("://")
    module = engine_module(engine)
    taken = signature(getattr(module, "takes", module.open_endpoint)).parameters
    if "start_timeout" in (*taken, *signature(module.open_endpoint).parameters):
        options["start_timeout"] = start_timeout
    try:
        endpoint: Endpoint = module.open_endpoint(**options)
    except TypeError as exc:
        if "argument" not in str(exc):
            raise
        name = re.search(r"argument '(\w+)'", str(exc))
        why = f"it has no option {name[1]!r}" if name else str(exc)
        known = [name for name in taken if name != "start_timeout"]
        remedy = _remedy(name[1] if name else "", known)
        if name and name[1] in _OF_HOSTS and not taken.keys() & set(_OF_HOSTS):
            remedy = "name an engine that has other hosts: 'dask', 'ipyparallel', 'mpi' or 'pvm'"
        raise EngineUnavailable(engine, why, remedy) from exc
    return endpoint


def _remedy(name: str, known: list[str]) -> str:
    """The remedy for an option that the engine lacks."""
    from difflib import get_close_matches  # imported here, because it loads slowly

    if not known:
        return "leave it out: it has none"
    close = get_close_matches(name, known, 1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}its options are: {', '.join(known)}"


def _engine_of(given: object) -> str:
    """The engine for a client or cluster of another system. Raises `BadJob`."""
    for kind in type(given).__mro__:
        if name := _OF_OBJECTS.get(kind.__module__.partition(".")[0]):
            return name
    why = f"must be the name of an engine, or a client of Dask or ipyparallel, not {given!r}"
    raise BadJob("engine", why)


def launched(engine: str) -> bool:
    """Whether other processes were started with this one as its agents, for example by ``mpirun``.

    They join only if all processes open their endpoints.
    """
    return bool(getattr(engine_module(engine), "launched", bool)())


def engine_module(name: str) -> ModuleType:
    """The module of the engine ``name``. Raises `EngineUnavailable`."""
    path, remedy = _MODULES.get(name, (None, ""))
    try:
        if path is not None:
            return import_module(path)
        for point in _provided().select(name=name):
            module: ModuleType = point.load()
            return module
    except ImportError as exc:
        raise EngineUnavailable(name, str(exc), remedy or "install its libraries") from exc
    known = ", ".join(engine_names())
    raise EngineUnavailable(name, "there is no such engine", f"use one of these: {known}")


def _provided() -> EntryPoints:
    """The engines of third parties."""
    from importlib.metadata import entry_points  # imported here, because it loads slowly

    return entry_points(group=_GROUP)

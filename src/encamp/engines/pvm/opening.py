"""The PVM engine: the controller is a PVM task, and every host of the virtual machine has an agent.

It uses a running virtual machine, or starts one. Agents join with their hosts, including hosts that
are added later, and an agent that dies alone is replaced.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from encamp import slurm
from encamp.engines.base import CONTROLLER
from encamp.engines.kit.foreign import foreign
from encamp.engines.kit.hostfile import hosts_in
from encamp.engines.kit.interpreter import python_here
from encamp.engines.pvm import libpvm
from encamp.engines.pvm.endpoint import PVMEndpoint
from encamp.engines.pvm.engine import PVMEngine
from encamp.engines.pvm.machine import VARIABLES, Machine, daemon_files, find_machine
from encamp.engines.pvm.membership import ENDED, Membership, enrol
from encamp.engines.pvm.naming import host_names
from encamp.errors import BadJob, EngineFailed, EngineUnavailable
from encamp.quantities import whole
from encamp.search_paths import SEARCH_PATHS, take_search_paths

_memberships: list[Membership] = []
"""This process's membership, if it has one."""


def open_end(
    *,
    slots: int | None = None,
    hosts: Sequence[str] | None = None,
    machine: str | None = None,
    address: str | None = None,
    per_agent: int | None = None,
    python: str | None = None,
    restarts: int = 3,
    module: str = "encamp.agent",
) -> PVMEngine:
    """The controller's endpoint, see `PVMEngine`.

    ``machine`` is ``"running"`` or ``"own"`` (a new one), by default the running one if there is
    one; ``address`` is this host's address for the hosts of a new one, by default that of its
    name. Without ``hosts``, those of Slurm's allocation are used. Raises `BadJob`,
    `EngineUnavailable` and `EngineFailed`.
    """
    if hosts is None and machine != "running" and (given := hosts_in(slurm.hosts())):
        hosts = [host.name for host in given]
        slots = sum(host.slots for host in given) if slots is None else slots
    named = [] if hosts is None else host_names(hosts)
    slots = None if slots is None else whole("slots", slots, 1)
    per_agent = None if per_agent is None else whole("per_agent", per_agent, 1)
    restarts = whole("restarts", restarts, 0)
    _check_texts(address=address, python=python, module=module)
    member = _member(machine, address, "" if named else "localhost")
    try:
        return PVMEngine(member, slots, named, per_agent, python or python_here(), restarts, module)
    except BaseException:
        if not member.endpoints:
            member.leave()
        raise


def _check_texts(**texts: object) -> None:
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise BadJob(name, f"must be a text, not {value!r}")


def join(arguments: Sequence[str]) -> PVMEndpoint:
    """The endpoint of an agent that `PVMEngine` has spawned.

    ``arguments`` are its number, its number of slots, and its host: on the controller's host
    (``here``) it gets the controller's environment, elsewhere only variables that the host does not
    set. If only the controller has added the host to the machine (``ours``), the daemon's files are
    removed at the end.
    """
    number, slots, here = int(arguments[0]), int(arguments[1]), arguments[2] == "here"
    variables = json.loads(os.environ.pop(VARIABLES, "{}"))
    files = daemon_files()
    member = enrol(Machine({"PVM_TMP": os.environ.get("PVM_TMP", "/tmp")}))  # noqa: S108
    if arguments[2] == "ours":
        atexit.register(lambda: _remove(files) if member.failure else None)
    _be_no_task(arguments[2])
    end = PVMEndpoint(member, number)
    end.left_out = _take(variables, here=here)
    end.slots = slots
    controller = libpvm.parent()
    if controller is None:
        raise EngineFailed("pvm", "it was not started by a controller")
    with member.lock:
        libpvm.notify(libpvm.TASK_EXIT, ENDED, [controller])
        member.say_hello(end.connection(CONTROLLER, controller))
    return end


def _take(variables: Mapping[str, str], *, here: bool) -> list[str]:
    """Set the controller's variables; returns the folders of search paths that are left out."""
    if here:
        os.environ.update(variables)
        return []
    left_out = take_search_paths(variables)
    new = {k: v for k, v in variables.items() if k not in (*SEARCH_PATHS, *os.environ)}
    os.environ.update(new)
    return left_out


def _be_no_task(where: str) -> None:
    """Remove encamp's variables of PVM from the environment; see `join` for ``where``."""
    ours = ["PVM_EXPORT"] if where == "there" else ["PVM_EXPORT", "PVM_TMP", "PVM_VMID"]
    for name in [name for name in os.environ if name.startswith("PVM")]:
        if where == "here" or name in ours or foreign(name):
            del os.environ[name]


def _remove(files: Iterable[Path]) -> None:
    """Remove the files of a dead daemon."""
    for path in files:
        path.unlink(missing_ok=True)


def _member(which: str | None, address: str | None, usual: str) -> Membership:
    """This process's membership; there can be one at a time, which all of its clusters share."""
    if _memberships:
        member = _memberships[0]
        if member.endpoints and not member.failure and member.process == os.getpid():
            own = member.machine.own
            if which == ("running" if own else "own"):
                why = f"this process is in {'its own' if own else 'the running'} virtual machine"
                raise EngineUnavailable("pvm", why, "close its other clusters first")
            return member
        _memberships.clear()
    machine = find_machine(which, address, usual)
    try:
        _memberships.append(enrol(machine))
    except BaseException:
        machine.close()
        raise
    return _memberships[0]

"""The PVM engine: the controller is a PVM task, and every host of the virtual machine has an agent.

It uses a running virtual machine, or starts one. Agents join with their hosts, including hosts that
are added later, and an agent that dies alone is replaced. Calls and messages go over the mesh.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from encamp import slurm
from encamp.engines.kit.hostfile import hosts_in
from encamp.engines.kit.interpreter import python_here
from encamp.engines.kit.mesh.agent import MeshAgent
from encamp.engines.kit.mesh.certificate import load_early
from encamp.engines.pvm.agent import join_by_order
from encamp.engines.pvm.engine import PVMEngine
from encamp.engines.pvm.host_names import host_names
from encamp.engines.pvm.machine import find_machine
from encamp.engines.pvm.membership import Membership, enrol
from encamp.errors import BadJob, EngineUnavailable
from encamp.number_checks import whole

_FORKED = "this process was forked from one that is in a virtual machine"
_NOT_FORKED = "fork before the first cluster is made, or start the process with subprocess"
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
    load_early()
    member = _member(machine, address, "" if named else "localhost")
    try:
        return PVMEngine(member, slots, named, per_agent, python or python_here(), restarts, module)
    except BaseException:
        member.leave_if_unused()
        raise


def _check_texts(**texts: object) -> None:
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise BadJob(name, f"must be a text, not {value!r}")


def join(_: Sequence[str]) -> MeshAgent:
    """The endpoint of an agent that `PVMEngine` has spawned."""
    return join_by_order()


def _member(which: str | None, address: str | None, usual: str) -> Membership:
    """This process's membership; there can be one at a time, which all of its clusters share."""
    if _memberships:
        member = _memberships[0]
        if member.engines and not member.failure:
            if member.process != os.getpid():  # libpvm would read from the parent's connection
                raise EngineUnavailable("pvm", _FORKED, _NOT_FORKED)
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

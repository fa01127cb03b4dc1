"""An agent as a task of a virtual machine: PVM gives it its order, the mesh does the rest."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from encamp.engines.kit.mesh.agent import MeshAgent, join_with
from encamp.engines.kit.start_agents import Spec
from encamp.engines.kit.variables_not_inherited import not_inherited
from encamp.engines.pvm import libpvm
from encamp.engines.pvm.machine import daemon_files
from encamp.engines.pvm.membership import own_descriptor
from encamp.engines.pvm.sent_variables import take_variables
from encamp.errors import EngineFailed
from encamp.timeouts import STARTS
from encamp.wire.wait_for_descriptor import readable

ORDER = 21
"""The tag of the message with the order."""


class Order(msgspec.Struct):
    """The settings of one agent. Never print it: it contains the key.

    On the controller's host (``here``) the agent gets the controller's ``variables``, elsewhere
    only those that the host does not set. If only the controller has added the host to the machine
    (``ours``), the daemon's files are removed at the end.
    """

    spec: Spec
    variables: dict[str, str]
    here: bool
    ours: bool

    def __repr__(self) -> str:
        return f"<Order of agent {self.spec.number}>"


def join_by_order() -> MeshAgent:
    """The endpoint of an agent that `PVMEngine` has spawned. Raises `EngineFailed`."""
    daemon, files = os.getppid(), daemon_files()
    order = _order()
    if order.ours:
        atexit.register(_remove, files, daemon)
    _remove_task_variables(order)
    left_out = take_variables(order.variables, here=order.here)
    order.spec.process = daemon
    endpoint = join_with(order.spec)
    endpoint.left_out = left_out
    return endpoint


def _order() -> Order:
    """Wait for the order of the task that has spawned this one.

    This process stays a task, so that PVM reports its end when it has ended.
    """
    libpvm.mytid()
    fd, parent = own_descriptor(), libpvm.parent()
    if parent is None:
        raise EngineFailed("pvm", "it was not started by a controller")
    deadline = time.monotonic() + STARTS
    while not (buffer := libpvm.nrecv(parent, ORDER)):
        left = deadline - time.monotonic()
        if left <= 0:
            raise EngineFailed("pvm", "its controller has sent no order")
        readable(fd, left)
    size, _, _ = libpvm.bufinfo(buffer)
    return msgspec.msgpack.decode(libpvm.unpack(size), type=Order)


def _remove_task_variables(order: Order) -> None:
    """Remove from the environment the variables of PVM that the host itself does not set."""
    ours = ["PVM_EXPORT", "PVM_TMP", "PVM_VMID"] if order.ours else ["PVM_EXPORT"]
    for name in [name for name in os.environ if name.startswith("PVM")]:
        if order.here or name in ours or not_inherited(name):
            del os.environ[name]


def _remove(files: Iterable[Path], daemon: int) -> None:
    """Remove the files of a daemon if it has ended before this process, its child."""
    if os.getppid() != daemon:
        for path in files:
            path.unlink(missing_ok=True)

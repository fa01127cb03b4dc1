"""Executors that differ from the promises of `concurrent.futures.Executor`."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from encamp.model import ServiceStatistics

_ANSWER_WITHIN = 5.0
"""Seconds that a server has to take a connection."""


def one_worker_a_call(executor: Executor) -> Executor:
    """``executor``, or one on the same workers that runs each call on one worker only.

    A direct view of ipyparallel (``client[:]``) runs every call on all of its engines; the balanced
    view of the same engines gives each call to the next free one.
    """
    ipyparallel = sys.modules.get("ipyparallel")
    view = getattr(executor, "view", None)
    if ipyparallel is None or not isinstance(view, ipyparallel.DirectView):
        return executor
    balanced: Executor = view.client.load_balanced_view(view.targets).executor
    return balanced


def answering(executor: Executor, answer: Callable[[Any], Any]) -> Executor:
    """``executor``, or one whose calls may ask questions, for hosts that may not share the disk."""
    if not hosts_elsewhere(executor):
        return executor
    view: Executor = executor._answering(answer)  # type: ignore[attr-defined]
    return view


def hosts_elsewhere(executor: Executor) -> bool:
    """Whether it is of encamp's cluster with slots outside of this process."""
    ours = sys.modules.get("encamp.executor.executor")
    return ours is not None and isinstance(executor, ours.Executor) and executor.cluster.spread


def services_of(executor: Executor) -> list[ServiceStatistics]:
    """The statistics of the services on its cluster, if it is encamp's."""
    ours = sys.modules.get("encamp.executor.executor")
    if ours is None or not isinstance(executor, ours.Executor):
        return []
    found: list[ServiceStatistics] = executor.cluster._services()
    return found


def why_gone(executor: Executor) -> str | None:
    """Why nothing will ever come back from an executor of another library; None if it may.

    Process pools report this themselves; a client of a dead server mostly waits for a new one.
    """
    client = getattr(executor, "_client", None)
    distributed = sys.modules.get("distributed")
    if distributed is not None and isinstance(client, distributed.Client):
        return None if client.status == "running" else "the connection to its scheduler was lost"
    ipyparallel = sys.modules.get("ipyparallel")
    view = getattr(executor, "view", None)
    if ipyparallel is not None and isinstance(view, ipyparallel.client.view.View):
        return _why_controller_gone(view.client)
    return None


def _why_controller_gone(client: Any) -> str | None:
    if getattr(client, "_closed", False):
        return "its client is closed"
    if not _answers(client._config.get("task", "")):
        return "its controller does not answer"
    return None if client.ids else "it has no engines left"


def _answers(url: str) -> bool:
    """Whether somebody listens at a ZeroMQ address; true where that cannot be known."""
    kind, _, place = url.partition("://")
    host, _, port = place.rpartition(":")
    try:
        if kind == "tcp" and port.isdecimal():
            socket.create_connection((host, int(port)), _ANSWER_WITHIN).close()
        elif kind == "ipc":
            with socket.socket(socket.AF_UNIX) as local:
                local.connect(place)
    except OSError:
        return False
    return True

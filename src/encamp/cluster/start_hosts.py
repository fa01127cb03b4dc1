"""How a cluster starts: its agents with their orders, and the wait for their hosts."""

from __future__ import annotations

import secrets
from functools import partial

from encamp.agent.agent import Agent
from encamp.cluster.closing import Lifetime
from encamp.cluster.cluster_options import ClusterSettings
from encamp.cluster.controller import Controller
from encamp.errors import EngineFailed, NoSuchHost
from encamp.slot.numerical_threads import chosen_here
from encamp.slot.shared_memory import USABLE, ProgramShortcut
from encamp.slot.slot_command import check_slots
from encamp.slot.small_messages import EngineShortcut, Shortcut
from encamp.storage.import_path import import_path
from encamp.timeouts import CONTROLLER_SILENT
from encamp.wire.protocol import ANY, Orders, SlotKind, encode
from encamp.wire.seal import KEY_BYTES


def pings_hosts(controller: Controller) -> bool:
    """Whether the controller and the agents watch each other: not if they are one process."""
    return controller.engine.agent_here is None and controller.kind is not SlotKind.INLINE


def start_agents(
    controller: Controller, lifetime: Lifetime, settings: ClusterSettings
) -> Agent | None:
    """Start the engine's agents; returns the one in this process, if there is one."""
    engine, pump = controller.engine, controller.pump
    if controller.kind is SlotKind.INLINE:
        engine.one_slot_each()
    key = b"" if engine.private else secrets.token_bytes(KEY_BYTES)
    if key:
        controller.inbox.use_key(key, engine.number)
    orders = encode(_orders(controller, settings, key))
    agent = lifetime.agent = _agent_here(controller)
    engine.start(orders)
    if agent is not None:
        pump.call_soon(partial(agent.take, [orders]))
    return agent


def _orders(controller: Controller, settings: ClusterSettings, key: bytes) -> Orders:
    return Orders(
        slots=controller.engine.slots_per_agent,
        kind=controller.kind,
        folder=settings.folder,
        sys_path=import_path(),
        key=key,
        follow=settings.follow is not None,
        silence_limit=CONTROLLER_SILENT if pings_hosts(controller) else 0.0,
        output=settings.output_limit,
        threads=chosen_here(),
        init_commands=settings.init_commands,
        niceness=settings.niceness,
        interpreters=settings.interpreters,
        cluster=controller.token,
    )


def _agent_here(controller: Controller) -> Agent | None:
    """The agent in this process: it and the controller call each other, without the engine."""
    endpoint = controller.engine.agent_here
    if endpoint is None:
        return None
    if controller.kind is SlotKind.PROCESS:
        check_slots()
    agent = Agent(
        endpoint, controller.pump, to_controller=controller.from_agent_here(endpoint.number)
    )
    controller.outbox.to_agent_here, controller.slots_here = agent.take, agent.slots
    return agent


def await_hosts(controller: Controller, timeout: float, named: set[str]) -> None:
    """Wait for the engine's agents.

    Raises `EngineFailed`, or `NoSuchHost` if an option has ``named`` a host that does not exist.
    """
    agents, engine = controller.agents, controller.engine

    def complete() -> bool:
        return len(agents.here()) >= engine.agents or controller.failure is not None

    controller.pump.until(complete, timeout)
    if controller.failure is not None:
        raise controller.failure
    if not agents.hosts:
        raise EngineFailed(engine.name, f"no host has joined within {timeout:g} s")
    hosts = tuple(host.name for host in agents.hosts.values())
    for name in named - {ANY, *hosts}:
        if not engine.elastic:
            raise NoSuchHost(name, hosts)


def shortcut_of(controller: Controller, agent: Agent | None) -> Shortcut | None:
    """The shortcut for small messages, if there is one; ``agent`` is the one in this process."""
    engine, pump, outbox = controller.engine, controller.pump, controller.outbox
    queue, prepared = controller.messages.queue, controller.messages.prepared
    if outbox.seal is not None:
        return None
    if engine.short is not None and controller.kind is SlotKind.INLINE:
        return EngineShortcut(pump, engine, engine.short, outbox, queue, prepared)
    if agent is not None and controller.kind is SlotKind.PROCESS and USABLE:
        return ProgramShortcut(pump, queue, prepared, agent.slots.__getitem__, agent.pass_on)
    return None

"""How hosts join a cluster, get orders, are watched, and leave: the controller's view of agents."""

from __future__ import annotations

import itertools
import logging
import socket
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

from encamp.agent.child_process import last_words
from encamp.cluster.events import Host, HostAdded, HostDeleted
from encamp.cluster.message_queue import MessageQueue
from encamp.cluster.records import HostRecord, SlotRecord, TaskRecord
from encamp.cluster.scheduler import Scheduler
from encamp.engines.engine_interface import Engine
from encamp.errors import EncampError, EngineFailed, TaskLost
from encamp.loop.pump import Pump
from encamp.storage.import_path import left_out_words
from encamp.timeouts import BEAT, MISSED, REPLACED
from encamp.wire.frames import Parts
from encamp.wire.outbox import Outbox
from encamp.wire.protocol import (
    SPAWNER,
    End,
    Hello,
    Housekeeping,
    HousekeepingDone,
    OutputText,
    Ping,
    Rescued,
    SlotEnded,
    encode,
)

_log = logging.getLogger("encamp")
_READABLE = (
    "anybody who can read the network between the hosts gets the key of this cluster's frames, and "
    "can forge them; "
    "where that matters, use a network of your own, or the engines dask or ipyparallel"
)
_warned: set[str] = set()
"""Warnings that this process has issued."""
_REPORT_AFTER = 0.5
"""Seconds between two reports of the load to an elastic engine."""


class AgentRecord:
    """An agent as the controller sees it."""

    def __init__(self, number: int, frames_by: str) -> None:
        self.number = number
        self.frames_by = frames_by
        self.slots: list[SlotRecord] = []
        self.facts: Hello | None = None
        self.tickets: list[int] = []
        self.missed = 0
        """The number of consecutive pings that it has not answered."""
        self.gone: set[SlotRecord] = set()
        """Its slots whose processes have ended."""
        self.rescues: dict[int, TaskRecord] = {}
        """By number, tasks that end when it has rescued their files."""
        self.refreshing = 0
        """Ticket of the request to replace the processes of its idle slots; 0 if there is none."""
        self.answered = True
        """Whether a frame has arrived since the last ping."""

    @property
    def host(self) -> str:
        """The name of its host; empty until it has joined."""
        return "" if self.facts is None else self.facts.host


class ControllerForAgents(Protocol):
    """The part of the controller that agents need."""

    @property
    def inline(self) -> bool:
        """Whether tasks run in agents themselves."""

    @property
    def closing(self) -> bool:
        """Whether the agents were asked to end."""

    @property
    def failure(self) -> EngineFailed | None:
        """The error if the engine has failed."""

    def slots_changed(self) -> None:
        """Called when the number of slots has changed."""

    def output_arrived(self, agent: AgentRecord, envelope: OutputText, parts: Parts) -> None:
        """Called with the output of a task."""

    def waits_again(self, record: TaskRecord) -> None:
        """Called with a task that its slot has given back without having started it."""

    def put_back(self, records: list[TaskRecord], slot: SlotRecord) -> None:
        """Queue tasks that were given back."""

    def end(self, record: TaskRecord, good: bool, value: Any) -> None:
        """Called when a task has ended."""

    def fail(self, exc: Exception) -> None:
        """Called when the whole engine has failed."""


class Agents:
    """The agents of a cluster, and their hosts; for the thread that drives its pump."""

    def __init__(
        self,
        controller: ControllerForAgents,
        engine: Engine,
        scheduler: Scheduler,
        pump: Pump,
        outbox: Outbox,
        messages: MessageQueue,
    ) -> None:
        self._controller, self._engine, self._scheduler = controller, engine, scheduler
        self._pump, self._outbox, self._messages = pump, outbox, messages
        self.by_number: dict[int, AgentRecord] = {}
        self.hosts: dict[str, Host] = {}
        self.housekeeping: dict[int, tuple[int, bool, str] | None] = {}
        """By ticket: the agent, whether it has succeeded, and its answer; None until then."""
        self.has_lost = False
        """Whether an agent has left, so that perhaps no host can meet some needs."""
        self._last_loss = ""
        self._tickets = itertools.count(1)

    def joined(self, number: int, frames_by: str) -> None:
        """Record that an agent has joined, according to the engine; its facts will follow."""
        self.by_number.setdefault(number, AgentRecord(number, frames_by))
        if self._controller.closing:  # the others were asked to end before
            self._outbox.post(number, [encode(End())])

    def hello(self, agent: AgentRecord, facts: Hello, parts: Parts) -> None:
        """Use the slots of an agent that has sent its facts."""
        if agent.facts is not None:
            return
        agent.facts = facts
        readable = self._outbox.seal is not None or self._engine.key_in_clear
        if readable and facts.host != socket.gethostname():
            self._warn_once(_READABLE)
        if facts.left_out:
            self._warn_once(left_out_words(facts.left_out, facts.host))
        host = self._scheduler.hosts.get(facts.host)
        if host is None:
            host = HostRecord(facts.host, facts.cores, facts.memory, facts.gpus)
        for number in range(facts.slots):
            slot = SlotRecord(agent.number, number, host)
            agent.slots.append(slot)
            self._scheduler.add(slot)
        self._update_host(host, agent)
        if agent.frames_by:
            _log.info(
                "frames of %s go through %s, because there is no direct connection",
                agent.host,
                agent.frames_by,
            )
        if self.has_lost:
            self.end_unmet()

    @staticmethod
    def _warn_once(words: str) -> None:
        if words not in _warned:
            _warned.add(words)
            with suppress(UserWarning):  # the work must continue if warnings are errors
                warnings.warn(words, stacklevel=2)

    def _update_host(self, host: HostRecord, agent: AgentRecord) -> None:
        known = self.hosts.get(host.name)
        gpus = tuple(host.gpus) if known is None else known.gpus
        python = "" if agent.facts is None else agent.facts.python
        by = agent.frames_by or ("" if known is None else known.frames_by)
        slots = len(host.slots)
        shown = Host(host.name, slots, host.cores, host.memory, gpus, python, by)
        self.hosts[host.name] = shown
        self._controller.slots_changed()
        if known is None:
            self._messages.put(SPAWNER, HostAdded(shown))

    def here(self) -> list[AgentRecord]:
        """The agents that have joined, in that order."""
        return [agent for agent in self.by_number.values() if agent.facts is not None]

    def ping(self, agent: AgentRecord) -> None:
        """Ask an agent whether it is alive; its ``answered`` is True once it has answered."""
        if agent.answered:
            agent.missed = 0
        agent.answered = False
        self._outbox.post(agent.number, [encode(Ping(0))])

    def listen(self) -> None:
        """Start to check regularly whether all agents are alive."""
        self._pump.call_later(BEAT, self._beat)

    def report_needs(self) -> None:
        """Report the load to an elastic engine, now and regularly. Agents that rescue are busy."""
        busy, waiting = self._scheduler.load()
        rescuing = {number: 1 for number, agent in self.by_number.items() if agent.rescues}
        self._engine.needs(rescuing | busy, waiting)
        self._pump.call_later(_REPORT_AFTER, self.report_needs)

    def _beat(self) -> None:
        """Ping all agents; those that have not answered for long are lost.

        The pings also show the agents that the controller is alive.
        """
        for agent in list(self.by_number.values()):
            if not agent.answered:
                agent.missed += 1
            if agent.missed >= MISSED:
                self.left(agent.number, f"it has not answered for {BEAT * MISSED:g} s")
                self._engine.give_up(agent.number)
                self._outbox.post(agent.number, [encode(End())])  # in case it was only cut off
                continue
            self.ping(agent)
        self.listen()

    def left(self, number: int, why: str) -> None:
        """Handle an agent that has left; the tasks that it was running are lost."""
        agent = self.by_number.pop(number, None)
        if agent is None or self._controller.closing:
            return
        for slot in agent.slots:
            if slot in agent.gone:
                continue
            ahead = self._scheduler.remove(slot)
            self._lose(slot, ahead[:1], ahead[1:], None, why)
        for task in list(agent.rescues.values()):
            self._controller.end(task, False, task.error)
        for ticket in agent.tickets:
            if self.housekeeping.get(ticket, ()) is None:
                self.housekeeping[ticket] = number, False, why
        if agent.facts is not None:
            host = self._scheduler.hosts.get(agent.facts.host)
            if host is None:
                self._messages.put(SPAWNER, HostDeleted(self.hosts.pop(agent.facts.host)))
                self._controller.slots_changed()
            else:  # another agent is still there
                self._update_host(host, agent)
            self._last_loss = f"; the last one was {agent.facts.host}: {why}"
        self.has_lost = True
        self.end_unmet()

    def end_unmet(self) -> None:
        """Fail the tasks that no remaining host can run; all tasks if no host joins soon."""
        if not self.by_number and self._engine.elastic:
            return  # hosts will join when there is work again
        if any(agent.facts is None for agent in self.by_number.values()):
            return  # a host is joining, and this is called again
        if not self.by_number:
            self._pump.call_later(REPLACED, self._fail_alone)
        for task in self._scheduler.unmet():
            lost = TaskLost(task.label, "its host", None, "no host is left that could run it")
            self._controller.end(task, False, lost)

    def _fail_alone(self) -> None:
        if not self.by_number and self._controller.failure is None:
            engine = self._engine.name
            self._controller.fail(
                EngineFailed(engine, f"all of its hosts are lost{self._last_loss}")
            )

    def slot_ended(self, agent: AgentRecord, envelope: SlotEnded, parts: Parts) -> None:
        """Handle a slot's new process: the old one's running call is lost, others run elsewhere."""
        slot = agent.slots[envelope.slot]
        slot.restarted()
        ahead = list(slot.tasks)
        if ahead:
            ahead[0].died(envelope.mark)
        if ahead and envelope.text and envelope.began:
            output = OutputText(envelope.slot, ahead[0].id, 0, envelope.text, True)
            self._controller.output_arrived(agent, output, [])
        for task in reversed(ahead):
            self._scheduler.ended(slot, task)
        why = last_words(envelope.text) if envelope.exit_code else ""
        begun = ahead[:1] if envelope.began else []
        if not agent.refreshing:
            self._scheduler.open(slot)
        self._lose(slot, begun, ahead[len(begun) :], envelope.exit_code, why, envelope.rescue)
        if envelope.gone:
            self._go_without(agent, slot, envelope.text.decode("utf-8", "replace"))

    def _go_without(self, agent: AgentRecord, slot: SlotRecord, why: str) -> None:
        """Give up a slot that cannot start any more; its agent is lost with the last one."""
        self._scheduler.remove(slot)
        agent.gone.add(slot)
        if len(agent.gone) < len(agent.slots):
            self._controller.slots_changed()
            self.end_unmet()
            return
        if len(self.by_number) == 1:  # a replacement would fail, too
            self._controller.fail(EngineFailed(self._engine.name, why))
        self.left(agent.number, why)
        self._engine.give_up(agent.number)
        self._outbox.post(agent.number, [encode(End())])

    def _lose(
        self,
        slot: SlotRecord,
        begun: list[TaskRecord],
        others: list[TaskRecord],
        exit_code: int | None,
        why: str,
        rescue: int = 0,
    ) -> None:
        """Fail the call that was running in a dead process of a slot, and queue the others.

        A task whose files its agent will ``rescue`` fails after that.
        """
        for task in others:
            self._controller.waits_again(task)
        self._controller.put_back(others, slot)
        for task in begun:
            error = task.why_ended(slot, exit_code, why)
            if task.id == rescue:
                self.end_after_rescue(task, slot, error)
            else:
                self._controller.end(task, False, error)

    def end_after_rescue(self, task: TaskRecord, slot: SlotRecord, error: EncampError) -> None:
        """Fail a task when the agent of its slot has rescued its files, or is lost."""
        agent = self.by_number.get(slot.agent)
        if agent is None:
            self._controller.end(task, False, error)
        else:
            task.awaits_rescue(error)
            agent.rescues[task.id] = task

    def rescued(self, agent: AgentRecord, envelope: Rescued, parts: Parts) -> None:
        """Handle the end of a rescue."""
        if (task := agent.rescues.pop(envelope.task, None)) is not None:
            self._controller.end(task, False, task.error)

    def begin_housekeeping(self, what: str, *, each: bool) -> dict[int, str]:
        """Ask ``each`` agent, or one per host, for `Housekeeping`; returns tickets → host names."""
        tickets: dict[int, str] = {}
        for agent in self.here():
            if each or agent.host not in tickets.values():
                ticket = next(self._tickets)
                tickets[ticket] = agent.host
                self.housekeeping[ticket] = None
                agent.tickets.append(ticket)
                if what == "refresh":  # calls for a process that ends would be lost
                    agent.refreshing = ticket
                    for slot in agent.slots:
                        self._scheduler.close(slot)
                self._outbox.post(agent.number, [encode(Housekeeping(ticket, what))])
        return tickets

    def housekeeping_done(
        self, agent: AgentRecord, envelope: HousekeepingDone, parts: Parts
    ) -> None:
        """Handle the answer of an agent to `Housekeeping`."""
        if envelope.ticket in self.housekeeping:
            self.housekeeping[envelope.ticket] = agent.number, envelope.ok, envelope.value
        if envelope.ticket == agent.refreshing:
            agent.refreshing = 0
            inline = self._controller.inline
            for slot in agent.slots:
                if inline or not (slot.stopping or any(task.cause for task in slot.tasks)):
                    self._scheduler.open(slot)

    def all_done(self, tickets: Iterable[int]) -> bool:
        """Whether all agents have answered, or have left."""
        return all(self.housekeeping[ticket] is not None for ticket in tickets)

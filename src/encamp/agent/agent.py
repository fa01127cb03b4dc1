"""The agent of one host: it runs the slots there, and forwards messages between them and others.

    endpoint ◄──► Agent ◄──► its slots: processes (`ProcessSlot`), threads, or the agent itself

It reads only the envelopes of messages, and forwards results and payloads undecoded. It also does
what a slot cannot do for itself: end it, restart it, connect it with another slot, and clean up
after it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from encamp import cores_and_memory
from encamp.agent.gpus import gpus_here
from encamp.agent.inline_slot import InlineSlot
from encamp.agent.process_slot import ProcessSlot, reclaim_in_background, reclaim_quietly
from encamp.agent.rescue import Rescues
from encamp.agent.slot_interface import AgentSlot
from encamp.agent.thread_slot import ThreadSlot
from encamp.engines.engine_interface import CONTROLLER, Arrival, Endpoint, Frame, Left
from encamp.errors import EncampError
from encamp.loop.event_loop import MANY, REST
from encamp.loop.pump import Pump
from encamp.search_paths import only_ours
from encamp.slot.current_task import in_a_call
from encamp.slot.open_files_limit import need_files
from encamp.slot.small_messages import EngineShortcut
from encamp.storage.cache.cache import clear_cache
from encamp.storage.import_path import extend_import_path, is_far
from encamp.storage.local_leftovers import reclaim_leftovers
from encamp.storage.persistent import remove_idle
from encamp.storage.shared_folders import Portable, SharedPath, local
from encamp.timeouts import ENDS
from encamp.version import __version__
from encamp.wire.frames import Parts
from encamp.wire.inbox import Handler, Inbox
from encamp.wire.outbox import Outbox
from encamp.wire.protocol import (
    NOWHERE,
    Answer,
    End,
    Hello,
    Housekeeping,
    HousekeepingDone,
    Link,
    Location,
    Message,
    Orders,
    Ping,
    Pong,
    Recall,
    Run,
    SlotKind,
    Stop,
    decode,
    encode,
)

_LOOK_AGAIN = 1.0
"""Seconds for reading what has arrived, before the controller counts as silent."""


class Agent:
    """Serves one end of an engine's network, on a pump that some thread drives.

    ``host`` is the name of its host. An agent in the controller's own process shares its pump, and
    uses no network: the controller calls `take`, and the agent calls ``to_controller``. ``over`` is
    true when the cluster was closed or the controller has ended.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pump: Pump,
        host: str | None = None,
        *,
        to_controller: Callable[[Any, Parts], None] | None = None,
    ) -> None:
        self.to_controller, self.in_program = to_controller, to_controller is not None
        self.endpoint, self.pump, self.number = endpoint, pump, endpoint.number
        self.host = host or socket.gethostname()
        self.over = False
        self._last_frame = 0.0
        self.shortcut: EngineShortcut | None = None
        """None if frames are sealed, or the controller's silence matters."""
        self.orders: Orders | None = None
        self.cluster = ""
        """See `Orders.cluster`."""
        self.slots: list[AgentSlot] = []
        self.rescues = Rescues(self)
        self.outbox = Outbox(endpoint)
        self.inbox = Inbox[int](
            self.outbox,
            int,  # each agent is known by its number
            heard=self._note_time,
            in_order=pump.before_others,
        )
        self.inbox.handlers = {Orders: self._take_orders}
        self._linked: set[tuple[int, int]] = set()
        if not self.in_program:
            pump.attach(endpoint, self.arrived)
            pump.at_turn_end.append(self.end_turn)

    def arrived(self, arrival: Arrival) -> None:
        """Handle what the engine receives."""
        if isinstance(arrival, Frame):
            self.inbox.receive(arrival.sender, arrival.parts)
        elif isinstance(arrival, Left) and arrival.agent == CONTROLLER:
            self.end()

    def _note_time(self, sender: int) -> None:
        if sender == CONTROLLER:
            self._last_frame = time.monotonic()

    def take(self, parts: Parts) -> None:
        """Handle a message of a controller in this process."""
        self.inbox.handle((CONTROLLER, decode(parts[0]), parts))

    def _take_orders(self, sender: int, orders: Orders, parts: Parts) -> None:
        self.orders, self.cluster = orders, orders.cluster
        self.inbox.handlers = self._handlers()
        if orders.key:
            self.inbox.use_key(orders.key, self.number)
        left_out = extend_import_path(orders.sys_path)
        left_out += [folder for folder in self.endpoint.left_out if folder not in left_out]
        count = self.endpoint.slots or orders.slots or cores_and_memory.cores()
        folder = _folder(orders.folder, far=is_far(orders.sys_path))
        label = max(0, self.number - 1)  # the number of an agent's only slot, as in an MPI job
        kinds: dict[SlotKind, Callable[[int], AgentSlot]] = {
            SlotKind.PROCESS: lambda number: ProcessSlot(self, number, folder),
            SlotKind.THREAD: lambda number: ThreadSlot(
                self, number, folder, label if count == 1 else number
            ),
            SlotKind.INLINE: lambda number: InlineSlot(self, number, folder),
        }
        self._hello(count, left_out)
        if not self.in_program or orders.kind is SlotKind.PROCESS:
            reclaim_in_background()  # leftovers of killed runs on this host
        if self.endpoint.short is not None and not (orders.silence_limit or orders.key):
            self.shortcut = EngineShortcut(
                self.pump, self.endpoint, self.endpoint.short, self.outbox
            )
        if orders.kind is not SlotKind.INLINE:
            need_files(count)
        for number in range(count):  # if one cannot start, those before it are ended
            self.slots.append(kinds[orders.kind](number))
        if limit := orders.silence_limit:
            self._last_frame = time.monotonic()
            self.pump.call_later(limit, lambda: self._look_for_controller(limit))

    def _look_for_controller(self, limit: float, *, again: bool = False) -> None:
        """End if the controller has been silent for long, after reading once more."""
        silent = time.monotonic() - self._last_frame
        if silent >= limit and again:
            self.end()
            return
        left = max(limit - silent, _LOOK_AGAIN)
        self.pump.call_later(left, lambda: self._look_for_controller(limit, again=silent >= limit))

    def _hello(self, count: int, left_out: list[str]) -> None:
        hello = Hello(
            host=self.host,
            pid=os.getpid(),
            slots=count,
            cores=cores_and_memory.cores(),
            memory=cores_and_memory.memory(),
            gpus=gpus_here(),
            python=".".join(map(str, sys.version_info[:3])),
            version=__version__,
            left_out=left_out,
        )
        self.post(CONTROLLER, [encode(hello)])

    def _handlers(self) -> dict[type, Handler[int]]:
        """The handlers of messages, once the agent has its orders."""
        return {
            Message: self._message,
            Run: self._give,
            Answer: self._answer,
            Location: self._location,
            Recall: _from_controller(lambda recall: self.slots[recall.slot].recall(recall)),
            Stop: _from_controller(lambda stop: self.slots[stop.slot].stop(stop.life, stop.ticket)),
            Ping: _from_controller(lambda ping: self.post(CONTROLLER, [encode(Pong(ping.ticket))])),
            Housekeeping: _from_controller(self._begin_housekeeping),
            End: _from_controller(lambda _: self.end()),
        }

    def _message(self, sender: int, envelope: Message, parts: Parts) -> None:
        if 0 <= envelope.slot < len(self.slots):
            self.slots[envelope.slot].give(envelope, parts)

    def _answer(self, sender: int, envelope: Answer, parts: Parts) -> None:
        if envelope.slot != NOWHERE:
            self._give(sender, envelope, parts)
        elif sender == CONTROLLER:
            self.rescues.answered(envelope, parts)

    def _give(self, sender: int, envelope: Run | Answer | Location, parts: Parts) -> None:
        self.slots[envelope.slot].give(envelope, parts)

    def _location(self, sender: int, envelope: Location, parts: Parts) -> None:
        if envelope.agent == self.number and envelope.its_slot != envelope.slot:
            self._link(envelope.slot, envelope.its_slot)
        self._give(sender, envelope, parts)

    def _link(self, one: int, other: int) -> None:
        """Give two slots a socket to each other, so that their messages bypass this agent.

        Without a free descriptor, all their messages go through the agent, to keep their order.
        """
        pair = (min(one, other), max(one, other))
        first, second = self.slots[pair[0]], self.slots[pair[1]]
        if pair in self._linked or not isinstance(first, ProcessSlot):
            return
        if isinstance(second, ProcessSlot):
            self._linked.add(pair)
            with suppress(OSError):
                ends = socket.socketpair()
                first.link(Link(second.number), ends[0].detach())
                second.link(Link(first.number), ends[1].detach())

    def unlink(self, slot: int) -> None:
        """Forget the links of a slot whose process has ended."""
        self._linked = {pair for pair in self._linked if slot not in pair}

    def pass_on(self, envelope: Any, parts: Parts) -> bool:
        """See `OwningAgent.pass_on`."""
        if not isinstance(envelope, Message) or envelope.agent <= CONTROLLER:
            if self.to_controller is not None:
                self.to_controller(envelope, parts)
                return isinstance(envelope, Message)
            self.post(CONTROLLER, parts)
        elif envelope.agent == self.number:
            self.inbox.handle((self.number, envelope, parts))
        else:
            self.post(envelope.agent, parts)
        return False

    def post(self, to: int, parts: Parts) -> None:
        """Send a message; over a network, the messages of a turn are sent in one frame."""
        if self.to_controller is not None:
            self.to_controller(decode(parts[0]), parts)
        else:
            self.outbox.post(to, parts)

    def end_turn(self) -> None:
        """Send what was posted in this turn."""
        self.outbox.flush()
        ahead = sum(slot.busy for slot in self.slots)
        self.pump.rest = REST if ahead > MANY * len(self.slots) else 0.0

    def _begin_housekeeping(self, asked: Housekeeping) -> None:
        """Do it in a thread, since it may take long."""

        def work() -> None:
            try:
                value, good = str(_WHAT[asked.what](self)), True
            except Exception as exc:  # noqa: BLE001 - it is reported to the waiting caller
                value, good = str(exc), False
            done = HousekeepingDone(asked.ticket, good, value)
            self.pump.call_soon(lambda: self.post(CONTROLLER, [encode(done)]))

        threading.Thread(target=work, name=f"encamp-{asked.what}", daemon=True).start()

    def end(self) -> None:
        """End all slots, interrupting their calls; blocks until they have ended."""
        if not self.over:
            self.over = True
            if self.shortcut is not None:
                self.shortcut.close()
            for slot in self.slots:
                slot.begin_end()
            deadline = time.monotonic() + ENDS  # for all slots together
            for slot in self.slots:
                slot.end(max(0.0, deadline - time.monotonic()))
            self.rescues.end(max(0.0, deadline - time.monotonic()))
            if any(slot.killed for slot in self.slots):
                reclaim_quietly()
            with suppress(EncampError, OSError):
                self.outbox.flush()


def _from_controller(handle: Callable[[Any], object]) -> Handler[int]:
    """A handler of envelopes that only the controller may send."""

    def handler(sender: int, envelope: Any, _: Parts) -> None:
        if sender == CONTROLLER:
            handle(envelope)

    return handler


def _refresh(agent: Agent) -> None:
    """Have idle slots release persistent folders."""
    for slot in agent.slots:
        slot.refresh()
    remove_idle()


def _clear(_: Agent) -> int:
    """Empty this host's local storage except for files in use; returns freed bytes."""
    reclaim_leftovers()
    return clear_cache()


_WHAT: dict[str, Callable[[Agent], object]] = {"clear": _clear, "refresh": _refresh}


def _folder(portable: str, *, far: bool) -> str:
    """The folder in which tasks start, if this host has it.

    With ``far``, the folder was named on a different host; here a different user might own it.
    """
    if not portable:
        return "/"
    value = json.loads(portable)
    path: Portable = SharedPath(*value) if isinstance(value, list) else value
    with suppress(EncampError):
        found = local(path)
        if found.is_dir() and (not far or only_ours(str(found))):
            return str(found)
    return "/"


def serve(endpoint: Endpoint, host: str | None = None) -> None:
    """Run an agent until the cluster is closed or its controller has ended.

    ``host`` is the host's name if it is not the machine's. Blocks.
    """
    pump = Pump()
    agent = Agent(endpoint, pump, host)
    with _interrupts_are_the_controllers():
        try:
            while not agent.over:
                pump.turn(None)
                for slot in agent.slots:
                    slot.work()
        finally:
            agent.end()
            endpoint.close()
            pump.close()


@contextmanager
def _interrupts_are_the_controllers() -> Iterator[None]:
    """Let Ctrl-C interrupt only the call that runs in this thread, if there is one.

    A terminal sends it to all its processes; the controller decides what it means for the cluster.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if in_a_call():
            signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)

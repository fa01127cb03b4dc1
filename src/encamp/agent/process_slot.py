"""A slot that runs calls in a process: one `ChildProcess` after another."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import DecodeError, Raw

from encamp.agent.child_process import REFUSED, ChildProcess, may_pass
from encamp.agent.failed_starts import Starts
from encamp.agent.rescue import noted_task
from encamp.agent.slot_interface import AgentSlot, OwningAgent
from encamp.engines.engine_interface import CONTROLLER
from encamp.errors import BadFrame, EncampError, SlotsCannotStart
from encamp.slot import ledger
from encamp.slot.main import SlotSettings
from encamp.slot.shared_memory import USABLE
from encamp.storage.dead_owners import reclaim
from encamp.storage.process_identity import this_process
from encamp.timeouts import ANSWERS, ENDS
from encamp.wire.frames import Parts
from encamp.wire.protocol import (
    RESULTS,
    SPAWNER,
    Exiting,
    GivenBack,
    Link,
    ManyResults,
    Message,
    Orders,
    Recall,
    Results,
    Run,
    SlotEnded,
    count_results,
    decode,
    decode_results,
    encode,
    encode_results,
    of_host,
)

_LOOK_AFTER = 4 * ledger.HOLD
"""Seconds without a message of a slot, after which its ledger is read."""
_LOOK = 0.02
"""Seconds between two checks whether a process has ended."""


class ProcessSlot(AgentSlot):
    """A slot that runs calls in a process. A process that dies is reported and replaced."""

    def __init__(self, agent: OwningAgent, number: int, folder: str) -> None:
        super().__init__(agent, number)
        orders = agent.orders
        self._settings = SlotSettings(
            number=number,
            host=agent.host,
            agent=agent.number,
            folder=folder,
            sys_path=orders.sys_path if orders is not None else [],
            own_mounts=os.geteuid() != 0,
            capture=True,
            follow=orders is not None and orders.follow,
            output=(orders or Orders()).output,
            cores=list(agent.endpoint.cores[number]) if agent.endpoint.cores else [],
            threads=(orders or Orders()).threads,
            init_command=of_host((orders or Orders()).init_commands, agent.host, ""),
            niceness=of_host((orders or Orders()).niceness, agent.host, 0),
            interpreter=of_host((orders or Orders()).interpreters, agent.host, ""),
            cluster=agent.cluster,
            supervisor=this_process().as_bytes(),
        )
        self._life = 0
        self._number = 0
        """The number of the last `Run`."""
        self._early: list[tuple[Message, Parts]] = []
        """Messages for calls of a later `Run`, which may get a fresh process."""
        self._starts = Starts()
        self._asked = False
        """Whether its process was asked to give back calls; it may die before it answers."""
        self._tickets: dict[int, float] = {}
        """By ticket, the times of the requests that it has not answered."""
        self._stopping = False
        """Whether it was asked to end."""
        self._spare: ChildProcess | None = None
        """The usual process, while a call runs in a fresh one."""
        self._leaving: list[ChildProcess] = []
        self._results: Parts = []
        self._looks = False
        """Whether a reading of the slot's ledger is scheduled."""
        self._ending = False
        self._mark = (0, 0)
        """The last `Ledger.mark` of the process that has ended."""
        self._note = b""
        """Its last note, see `Rescues.begin`."""
        self._refused = 0
        """Number of consecutive times that the system has refused to start a process."""
        self._fresh_refused = 0
        self._down = False
        """Whether it has no process now. Calls that arrive count as lost with the last one."""
        self._process = self._start()

    def _start(self) -> ChildProcess:
        process = ChildProcess(self._settings)
        pump = self.agent.pump
        pump.watch(process.data.fileno(), partial(self._readable, process))
        pump.watch(process.control.fileno(), lambda _: self._control(process))
        pump.watch(process.exit_fd, lambda _: self._exited(process))
        return process

    def _forget(self, process: ChildProcess) -> None:
        for fd in (process.data.fileno(), process.control.fileno(), process.exit_fd):
            if fd >= 0:
                self.agent.pump.forget(fd)

    def give(self, envelope: Any, parts: Parts) -> None:
        """See `AgentSlot.give`."""
        if isinstance(envelope, Message) and envelope.run > self._number:
            self._early.append((envelope, parts))
            return
        if isinstance(envelope, Run):
            self._number = envelope.number
            if self._down:
                self.busy += envelope.count
                return
            if envelope.life != self._life:
                return  # its process has ended; a report of that is on its way
            if envelope.fresh and not self._take_fresh(envelope):
                return
            self._process.runs += 1
            self.busy += envelope.count
            if not self._looks:
                self._look_later()
        self._send(parts)
        if self._early and isinstance(envelope, Run):
            early, self._early = self._early, []
            for message, its_parts in early:
                self.give(message, its_parts)

    def _take_fresh(self, envelope: Run) -> bool:
        """Start a fresh process for a call. If that fails, report the slot's end; returns False."""
        try:
            fresh = self._start()
        except (OSError, EncampError) as exc:
            self.busy += envelope.count
            self._end_idle(self._process)
            self.agent.unlink(self.number)
            self._fresh_refused += 1
            if self._fresh_refused > len(REFUSED) or not may_pass(exc):
                self._give_up(SlotsCannotStart(self.agent.host, self._fresh_refused, str(exc)))
            else:
                self._start_again(None, b"", began=False)
            return False
        self._fresh_refused = 0
        self._spare, self._process = self._process, fresh
        self._asked = False
        self.agent.unlink(self.number)
        return True

    def _send(self, parts: Parts, descriptors: tuple[int, ...] = ()) -> None:
        process = self._process
        with suppress(OSError):  # the end of the process is noticed by `exit_fd`
            process.writer.send(parts, descriptors)
            if process.writer.waiting:
                self._watch(process, writable=True)

    def _watch(self, process: ChildProcess, *, writable: bool) -> None:
        fd = process.data.fileno()
        self.agent.pump.watch(fd, partial(self._readable, process), writable=writable)

    def reachable_process(self) -> ChildProcess | None:
        """See `shared_memory.LocalSlot.reachable_process`."""
        return None if self._down or self._early or not USABLE else self._process

    def send_to_process(self, process: ChildProcess, parts: Parts) -> None:
        """See `shared_memory.LocalSlot.send_to_process`."""
        if process is self._process:
            with self.agent.pump.signals_deferred:  # half a message would spoil the stream
                self._send(parts)

    def link(self, envelope: Link, fd: int) -> None:
        """Pass the slot a socket to another slot, and close it here."""
        if self._down:
            os.close(fd)
        else:
            self._send([encode(envelope)], (fd,))

    def _readable(self, process: ChildProcess, _: int) -> bool:
        """Read what has arrived; see `Agent.pass_on`."""
        if process.writer.waiting:
            with suppress(OSError):
                process.writer.flush()
                if not process.writer.waiting:
                    self._watch(process, writable=False)
        return self._take(process, self._messages(process))

    def _messages(self, process: ChildProcess) -> list[Parts]:
        try:
            return process.reader.read()
        except (EOFError, OSError, BadFrame) as exc:
            self._stop_reading(process, process.data, exc)
            return []

    def _take(self, process: ChildProcess, messages: list[Parts]) -> bool:
        no_more = bool(messages)
        for parts in messages:
            if process.talks:
                self._take_short(process)
            process.read += 1
            try:
                are_results = parts[0][:2] == RESULTS
                if are_results:
                    parts = self._new_results(process, parts)
                envelope = None if are_results and len(parts) == 1 else decode(parts[0])
            except (BadFrame, DecodeError) as exc:
                self._stop_reading(process, process.data, exc)
                break
            if envelope is None:
                self._results += parts
                no_more = False
            elif isinstance(envelope, Exiting):
                self._replace(process)
                return False
            else:
                self._pass_results()
                no_more = self.agent.pass_on(envelope, parts) and no_more
        if self._results:
            self._pass_results()
        if process.talks:
            self._take_short(process)
        if self._spare is not None and not self.busy:
            self._restore()
        return no_more

    def _take_short(self, process: ChildProcess) -> None:
        """Pass on the message in the shortcut's cell if it is the next one."""
        found = process.cells.to_program.take(process.read)
        if found is not None:
            self._pass_results()
            self.agent.pass_on(Message(SPAWNER, found[0]), [b"", found[1]])

    def _new_results(self, process: ChildProcess, parts: Parts) -> Parts:
        """The results without those that were read from the slot's ledger before."""
        results = count_results(parts[0])
        old = process.results - results.first
        process.results += results.count - old
        self.busy -= results.count - old
        if self.busy and not self._looks:
            self._look_later()
        if not old:
            return parts
        new = decode(parts[0]).results[old:]
        return [encode(Results(results.slot, new, results.first + old, len(new))), *parts[1:]]

    def _look_later(self) -> None:
        """Read the slot's ledger if it sends nothing for a while."""
        self._looks = True
        look = partial(self._look, self._process, self._process.results)
        self.agent.pump.call_later(_LOOK_AFTER, look)

    def _look(self, process: ChildProcess, results: int) -> None:
        """Read the ledger of a process if no results have arrived since there were ``results``."""
        self._looks = False
        if self._ending or not self.busy:
            return
        silent = process is self._process and results == process.results
        if not (silent and self._take_held(process)):
            self._look_later()

    def _take_held(self, process: ChildProcess) -> bool:
        """Forward results from the ledger; False if others, in transit, must come first."""
        found = ledger.read(process.ledger)
        if found is None or found[0] > process.results:
            return False
        first, results = found
        if new := results[process.results - first :]:
            self._results.append(encode_results(self.number, list(map(Raw, new)), process.results))
            process.results += len(new)
            self.busy -= len(new)
            self._pass_results()
        return True

    def _pass_results(self) -> None:
        """Forward consecutive results as one message."""
        results = self._results
        if results:
            self._results = []
            to_controller = self.agent.to_controller
            if to_controller is not None and len(results) == 1:
                to_controller(decode_results(results[0]), results)
            else:
                head = [encode(ManyResults(self.number))] if len(results) > 1 else []
                self.agent.post(CONTROLLER, [*head, *results])

    def _restore(self) -> None:
        """Go back to the usual process after a call in a fresh one."""
        fresh, lasting, self._spare = self._process, self._spare, None
        self.agent.unlink(self.number)
        self._end_idle(fresh)
        if lasting is None or not lasting.alive:
            self._start_again(0, b"", began=False)
            return
        self._process = lasting
        if self._asked:  # the answer and the end of the fresh process are not read
            self._asked = False
            self._report_end(0, b"")

    def _replace(self, process: ChildProcess) -> None:
        """Start a process in place of one that has ended on its own, and report this."""
        self._pass_results()
        if process is self._process and self._spare is None and not self._ending:
            self.agent.unlink(self.number)
            self._end_idle(process)
            self._start_again(0, b"", began=False)

    def _end_idle(self, process: ChildProcess) -> None:
        """End an idle process, without waiting for it."""
        self._forget(process)
        self._leaving.append(process)
        process.ask_to_stop()
        kill_at = time.monotonic() + ENDS

        def look() -> None:
            if process not in self._leaving:
                return
            if time.monotonic() > kill_at:
                process.kill()
            if process.alive:
                self.agent.pump.call_later(_LOOK, look)
            else:
                self._leaving.remove(process)
                process.ended()
                self.agent.rescues.begin(process.last_note)

        self.agent.pump.call_later(_LOOK, look)

    def _control(self, process: ChildProcess) -> None:
        try:
            messages = process.control_reader.read()
            envelopes = [decode(parts[0]) for parts in messages]
        except (EOFError, OSError, BadFrame) as exc:
            self._stop_reading(process, process.control, exc)
            return
        for envelope, parts in zip(envelopes, messages, strict=True):
            if isinstance(envelope, GivenBack):
                self.busy -= len(envelope.tasks)
                self._tickets.pop(envelope.ticket, None)
                if self._stopping:
                    continue  # the process is ending: they are reported with its end
            self.agent.pass_on(envelope, parts)
        if self._spare is not None and not self.busy and process is self._process:
            self._restore()

    def _stop_reading(self, process: ChildProcess, link: socket.socket, exc: Exception) -> None:
        """Ignore a socket from now on: a task may have damaged it; other slots must continue."""
        self.agent.pump.forget(link.fileno())
        if isinstance(exc, BadFrame | DecodeError):
            process.kill()

    def _exited(self, process: ChildProcess) -> None:
        """Pass on the last messages of a process, report its end, and start another."""
        with suppress(ValueError):
            self._take(process, self._messages(process))
            self._take_held(process)
        if process is not self._process:
            if process not in self._leaving:  # the spare one has died
                self._forget(process)
                process.ended()
                self.agent.rescues.begin(process.last_note)
            return
        self._forget(process)
        text, began = process.printed(), process.in_a_call
        self._mark = process.mark
        begun, exit_code = process.has_begun, process.ended()
        self._note = process.last_note
        self._starts.note(process.start_failure, begun=begun, waited=self.busy > 0)
        began = began or self._starts.by_call  # if True, the first waiting call fails
        self.agent.unlink(self.number)
        if exit_code or began:
            reclaim_in_background()
        if not self._ending:
            self._start_again(exit_code, text, began=began)

    def _start_again(self, exit_code: int | None, text: bytes, *, began: bool) -> None:
        """Start another process in place of one that has ended, and report the end of that.

        If no process can start, reports that the slot has ended.
        """
        if self._ending:
            return
        try:
            self._starts.check(self.agent.host)
        except SlotsCannotStart as exc:
            self._give_up(exc)
            return
        try:
            spare, self._spare = self._spare, None
            self._process = spare if spare is not None and spare.alive else self._start()
        except (OSError, EncampError) as exc:
            if self._refused == len(REFUSED) or not may_pass(exc):
                self._give_up(SlotsCannotStart(self.agent.host, self._refused + 1, str(exc)))
                return
            self._down = True
            pause, self._refused = REFUSED[self._refused], self._refused + 1
            again = partial(self._start_again, exit_code, text, began=began)
            self.agent.pump.call_later(pause, again)
        else:
            self._refused, self._down = 0, False
            self._report_end(exit_code, text, began=began)

    def _give_up(self, exc: Exception) -> None:
        self._ending = self._down = True
        self._report_end(None, str(exc).encode(), gone=True)

    def _report_end(
        self, exit_code: int | None, text: bytes, *, began: bool = False, gone: bool = False
    ) -> None:
        note, mark, self._note, self._mark = self._note, self._mark, b"", (0, 0)
        ended = SlotEnded(self.number, exit_code, text, began, gone, mark, noted_task(note))
        self.busy = 0
        self._stopping = False
        self._tickets.clear()
        self._life += 1
        self.agent.pass_on(ended, [encode(ended)])
        self.agent.rescues.begin(note)  # which the controller must learn first

    def recall(self, order: Recall) -> None:
        """See `AgentSlot.recall`."""
        self._asked = True
        self._tickets[order.ticket] = time.monotonic()
        asked = Recall(order.slot, order.ticket, self._process.runs)
        with suppress(OSError):
            self._process.control_writer.send([encode(asked)])

    def stop(self, life: int, ticket: int) -> None:
        """See `AgentSlot.stop`. The process gets `ENDS` seconds to clean up."""
        process = self._process
        if life != self._life or (ticket and ticket not in self._tickets):
            return
        if ticket and (left := self._tickets[ticket] + ANSWERS - time.monotonic()) > 0:
            self.agent.pump.call_later(left, lambda: self.stop(life, ticket))
            return
        self._stopping = True
        process.ask_to_stop()

        def kill() -> None:
            if process is self._process and process.alive:
                process.kill()

        self.agent.pump.call_later(ENDS, kill)

    def refresh(self) -> None:
        """See `AgentSlot.refresh`."""
        done = threading.Event()
        idle: list[ChildProcess] = []

        def swap() -> None:
            if not self.busy and not self._ending:
                with suppress(OSError, EncampError):  # then it keeps its process
                    fresh = self._start()
                    idle.append(self._process)
                    self._forget(self._process)
                    self.agent.unlink(self.number)
                    self._process = fresh
                    self._report_end(0, b"")
            done.set()

        self.agent.pump.call_soon(swap)
        done.wait()
        for process in idle:
            process.stop()
            self.agent.pump.call_soon(partial(self.agent.rescues.begin, process.last_note))

    def begin_end(self) -> None:
        """See `AgentSlot.begin_end`."""
        self._ending = True
        for process in self._processes():
            self._forget(process)
            process.ask_to_stop()

    def end(self, within: float) -> None:
        """See `AgentSlot.end`."""
        leaving, self._leaving = self._leaving, []
        for process in (*self._processes(), *leaving):
            self.killed = not process.stop(within) or self.killed
            self.agent.rescues.drop(process.last_note)
        self.agent.rescues.drop(self._note)

    def _processes(self) -> list[ChildProcess]:
        return [process for process in (self._process, self._spare) if process is not None]


def reclaim_quietly() -> None:
    """Remove what killed processes have left in the local storage; ignores errors."""
    with suppress(Exception):
        reclaim()


def reclaim_in_background() -> None:
    """`reclaim_quietly` in a thread, since it may take long."""
    threading.Thread(target=reclaim_quietly, name="encamp-reclaim", daemon=True).start()

"""The controller: what a cluster does when something comes from its agents, or is to go there.

    Cluster.spawn ─► incoming ─► Scheduler ─► Run ─► agent ─► slot
    Task, queue of messages ◄─ results, messages, losses ◄─ agent ◄─ slot

All of it runs in the thread that drives the pump.
"""

from __future__ import annotations

import functools
import itertools
import logging
import pickle
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from encamp.agent.child import Stopped
from encamp.agent.hosted import ANSWER_WITHIN
from encamp.agent.outbox import Outbox
from encamp.agent.pickling import NotImportable, RemoteTraceback, dump, load, portable_error
from encamp.agent.protocol import (
    SPAWNER,
    Answer,
    Ask,
    Call,
    End,
    GivenBack,
    Hello,
    ManyResults,
    Message,
    Order,
    OrderDone,
    Ping,
    Recall,
    Result,
    Results,
    Run,
    Said,
    SlotEnded,
    Started,
    Stop,
    Where,
    WhereIs,
    decode,
    encode,
    encode_calls,
    unbundled,
)
from encamp.agent.pump import MANY, REST, Pump
from encamp.cluster.errands import Errands
from encamp.cluster.events import Host, HostAdded, HostDeleted, TaskExit, TaskResult
from encamp.cluster.functions import Functions
from encamp.cluster.mail import Mail
from encamp.cluster.scheduler import Place, Scheduler, Station
from encamp.cluster.setups import Setups
from encamp.cluster.task import Task
from encamp.engines.base import Arrival, Engine, Frame, Joined, Left
from encamp.errors import (
    BadFrame,
    CannotTravel,
    EncampError,
    EngineFailed,
    TaskKilled,
    TaskLost,
    TimeLimitExceeded,
    UnsupportedByEngine,
)
from encamp.wire import Parts

_log = logging.getLogger("encamp")
_AGAIN = 0.01
_STUCK = 0.05
"""Seconds after which what waits behind a long call goes elsewhere, if there is room."""
_NOBODY = 20.0
"""Seconds that others may take to come after the last host has gone."""
BEAT = 1.5
"""Seconds between two pings."""
MISSED = 5
"""Pings without an answer after which an agent is taken to be lost."""
_NONE = pickle.dumps(None, 5)
_NO_BUFFERS: Parts = []
NOT_INLINE = "make the cluster without inline=True"
"""What to do where inline tasks cannot have something."""


class Agent:
    """An agent as the controller sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.places: list[Place] = []
        self.facts: Hello | None = None
        self.tickets: list[int] = []
        self.missed = 0
        self.refreshing = 0
        """Ticket of an order by which its idle slots change their processes; 0: none."""
        self.heard = True


class Controller:
    """All that a cluster knows, behind its public face (`Cluster`)."""

    def __init__(self, engine: Engine, *, inline: bool, follow: Callable[[int, str], None] | None):
        self.engine, self.inline, self.follow = engine, inline, follow
        self.pump = Pump()
        self.outbox = Outbox(engine)
        self.scheduler = Scheduler()
        self.functions = Functions()
        self.errands = Errands(self.pump)
        self.setups = Setups(everybody_here=engine.agent_here is not None)
        self.agents: dict[int, Agent] = {}
        self.hosts: dict[str, Host] = {}
        self.tasks: dict[int, Task] = {}
        """All that have not ended."""
        self.incoming: deque[Task] = deque()
        self.mail = Mail(self.tasks, self.outbox)
        self.failure: EngineFailed | None = None
        self.orders: dict[int, tuple[int, bool, str] | None] = {}
        self.closing = False
        self._tickets = itertools.count(1)
        self._looking = False
        self._has_lost_hosts = False
        self._handlers: dict[type, Callable[[Agent, Any, Parts], None]] = {
            Hello: self._hello,
            Results: self._results,
            ManyResults: self._many_results,
            Message: self._message,
            Started: self._started,
            Said: self._said,
            WhereIs: self._where_is,
            Ask: self._ask,
            GivenBack: self._given_back,
            SlotEnded: self._slot_ended,
            OrderDone: self._order_done,
        }
        self.pump.attach(engine, self.arrived)
        self.pump.turned.append(self.turned)
        self.pump.broken = self.fail

    # One turn of the pump

    def turned(self) -> None:
        """Begin what waits, and send what is to go."""
        scheduler = self.scheduler
        if self.incoming:
            self.take_in()
            if self.failure is not None:  # maybe after its spawner had looked
                self.fail(self.failure)
            if self._has_lost_hosts:  # maybe after the host of one was looked for
                self._end_unmet()
        if scheduler.slots:
            for place, tasks in scheduler.assign():
                self._run(place, tasks)
            self.pump.rest = REST if scheduler.ahead > MANY * scheduler.slots else 0.0
            if scheduler.idle and scheduler.ahead and not self._looking:
                self._looking = True
                self.pump.later(_STUCK, self._unstick)
        self.outbox.flush()
        self.mail.call_waiters(failed=self.failure is not None)

    def take_in(self) -> None:
        """Let what was spawned wait. Other threads only add to ``incoming``, in one step."""
        incoming = self.incoming
        while incoming:
            task = incoming[0]
            self.tasks[task.id] = task
            self.scheduler.put(task)
            incoming.popleft()

    def known(self) -> list[Task]:
        """The tasks that have not ended; for the thread that drives."""
        self.take_in()
        return list(self.tasks.values())

    def send(self, to: int, payload: Parts) -> None:
        """Send a message of the program to a task; for the thread that drives."""
        self.take_in()
        self.mail.send(to, SPAWNER, payload)

    def arrived(self, arrival: Arrival) -> None:
        """Handle what the engine brings."""
        if isinstance(arrival, Frame):
            try:
                self._frame(arrival.sender, arrival.parts)
            except BadFrame:
                return  # not from one of us: as if it had not come
        elif isinstance(arrival, Joined):
            self.agents.setdefault(arrival.agent, Agent(arrival.agent))
        elif isinstance(arrival, Left):
            self.left(arrival.agent, arrival.why)

    def _frame(self, sender: int, parts: Parts) -> None:
        if self.outbox.seal is not None:
            parts = self.outbox.seal.open(sender, parts)
        agent = self.agents.get(sender)
        if agent is None:
            return
        agent.heard = True
        messages = unbundled(parts)
        if len(messages) == 1:
            self._handle((agent, *messages[0]))
        else:
            self.pump.before_others(self._handle, [(agent, *message) for message in messages])

    def _handle(self, message: tuple[Agent, Any, Parts]) -> None:
        agent, envelope, parts = message
        handler = self._handlers.get(type(envelope))
        if handler is not None and agent.number in self.agents:
            with suppress(BadFrame):
                handler(agent, envelope, parts)

    # Sending calls

    def _run(self, place: Place, tasks: list[Task]) -> None:
        """Send calls to a slot; a call that cannot be pickled fails alone."""
        calls: list[Call] = []
        buffers: Parts = []
        for task in tasks:
            try:
                first, *large = dump(task._arguments)
                setup = b"" if task._options.plain else self.setups.of(task)
            except Exception as exc:  # noqa: BLE001 - pickling runs the arguments' own code
                self._fail_unsent(place, task, exc)
                continue
            calls.append((task.id, task._function.number, first, len(large), setup))  # type: ignore[arg-type]
            if large:
                buffers += large
        if calls:
            functions, fresh = self._new_functions(place, tasks), tasks[0]._options.fresh
            numbers = [function.number for function in functions]
            place.runs += 1
            run = Run(place.number, len(calls), numbers, fresh, place.life, place.runs)
            payloads = [function.payload for function in functions]
            self.outbox.post(place.agent, [encode(run), encode_calls(calls), *payloads, *buffers])
            if not fresh:
                place.known.update(numbers)
            self._begins(place)

    def _new_functions(self, place: Place, tasks: list[Task]) -> list[Any]:
        if tasks[0]._options.fresh:
            return list({task._function.number: task._function for task in tasks}.values())
        new = {}
        for task in tasks:
            number = task._function.number
            if number not in place.known:
                new[number] = task._function
        return list(new.values())

    def _fail_unsent(self, place: Place, task: Task, exc: Exception) -> None:
        self.scheduler.ended(place, task)
        error = CannotTravel(f"an argument of {task._function.name}", str(exc) or repr(exc))
        error.__cause__ = exc
        self.end(task, False, error)

    def _begins(self, place: Place) -> None:
        """The first of the calls at a slot is, or will be at once, the running one.

        That is not known while the slot is asked to give back what it has not begun.
        """
        if place.ahead and not place.ticket:
            task = place.ahead[0]
            if task._state == "PENDING":
                task._begins()
                task.host, task.slot = place.station.name, place.number
            self.mail.begins(task)

    # What comes of them

    def _results(self, agent: Agent, envelope: Results, parts: Parts) -> None:
        place = agent.places[envelope.slot]
        results, at = [], 1
        for result in envelope.results:
            end = at + result[4]
            results.append((place, result, parts[at:end]))
            at = end
        self._take_results(place, results)

    def _many_results(self, agent: Agent, envelope: ManyResults, parts: Parts) -> None:
        place = agent.places[envelope.slot]
        results = [(place, decode(part).results[0], _NO_BUFFERS) for part in parts[1:]]
        self._take_results(place, results)

    def _take_results(self, place: Place, results: list[tuple[Place, Result, Parts]]) -> None:
        """Take the first in; the others come next, also if a future's callback waits for one."""
        if len(results) > 1:
            self.pump.before_others(self._begins, [place])
            self.pump.before_others(self._take_result, results)
        else:
            for result in results:
                self._take_result(result)
            self._begins(place)

    def _take_result(self, come: tuple[Place, Result, Parts]) -> None:
        place, result, buffers = come
        number, good, seconds, payload, _ = result
        task = self.tasks.get(number)
        if task is not None and task._place is place:
            if task.host is None:  # its result came with that of the call before it
                task.host, task.slot = place.station.name, place.number
            task._function.took(seconds)
            self.scheduler.ended(place, task)
            if good and payload == _NONE and not task._options.staged:
                self.end(task, True, None)
            else:
                self._result(task, place, good, [payload, *buffers])

    def _result(self, task: Task, place: Place, good: bool, body: Parts) -> None:
        try:
            value = load(body)
        except BaseException as exc:  # noqa: BLE001 - unpickling runs the value's own code
            cause = f"its result cannot be read here: {type(exc).__name__}: {exc}"
            good, value = False, (RuntimeError(cause), "")
        if good:
            if task._options.staged:
                self.errands.publish(task, value, self.end)
            else:
                self.end(task, True, value)
            return
        self._failed(task, place, *value)

    def _failed(self, task: Task, place: Place, error: BaseException, text: str) -> None:
        if isinstance(error, NotImportable) and self._again_by_value(task, error.module):
            return
        if isinstance(error, Stopped):
            error = self._reason(task, place, None, "its slot was asked to end")
        elif isinstance(error, NotImportable):
            error = ModuleNotFoundError(
                f"the host {place.station.name} has no module {error.module!r}; install it there"
            )
        else:
            head = f"{task.name} on {place.station.name}, slot {place.number}:\n"
            error.__cause__ = RemoteTraceback(head + text)
        self.end(task, False, error)

    def _again_by_value(self, task: Task, module: str) -> bool:
        again = self.functions.again_by_value(task._function, module)
        if again is None:
            return False
        task._function = again
        task._waits_again()
        self.scheduler.put_back([task])
        return True

    def _reason(self, task: Task, place: Place, exit_code: int | None, why: str) -> EncampError:
        """What is told of a task whose slot was ended, or ended by itself."""
        if task._end == "killed":
            return TaskKilled(task.label, place.station.name)
        if task._end == "time" and task._options.time_limit is not None:
            return TimeLimitExceeded(task.label, None, task._options.time_limit)
        return TaskLost(task.label, place.station.name, exit_code, why)

    def end(self, task: Task, good: bool, value: Any) -> None:
        """A task has ended: tell its future, and the queue if that was wanted."""
        if self.tasks.pop(task.id, None) is None:
            return
        task._arguments = None
        self.mail.forget(task)
        if task._options.staged and (depot := self.setups.forget(task)) is not None:
            self.errands.run(depot.close, _nothing)
        if task.done():  # cancelled meanwhile
            return
        if task._options.notify:
            self.mail.put(task.id, TaskResult(task.id, good, value))
            self.mail.put(task.id, TaskExit(task.id))
        if good:
            task.set_result(value)
        else:
            task.set_exception(value)

    def _said(self, agent: Agent, envelope: Said, parts: Parts) -> None:
        task = self.tasks.get(envelope.task)
        if task is None:
            return
        told: int = task.__dict__.get("_told", 0)
        new = envelope.text[max(0, told - envelope.start) :]
        task.__dict__["_told"] = max(told, envelope.start + len(envelope.text))
        if envelope.last:
            task.output = envelope.text.decode("utf-8", "replace")
        elif new:
            task.output += new.decode("utf-8", "replace")
        if new and self.follow is not None:
            try:
                self.follow(task.id, new.decode("utf-8", "replace"))
            except Exception:  # noqa: BLE001 - it is a user's
                _log.exception("the function that follows the output of tasks raised")

    def _started(self, agent: Agent, envelope: Started, parts: Parts) -> None:
        task = self.tasks.get(envelope.task)
        if task is not None and (limit := task._options.time_limit) is not None:
            number = task.id  # not the task itself, which may end long before
            self.pump.later(limit, lambda: self._time_is_over(number))

    def _time_is_over(self, number: int) -> None:
        task = self.tasks.get(number)
        if task is not None:
            self.stop(task, "time")

    # What tasks send and ask

    def _message(self, agent: Agent, envelope: Message, parts: Parts) -> None:
        if envelope.to == SPAWNER:
            self.mail.put(envelope.sender, parts[1:])
        else:
            self.mail.send(envelope.to, envelope.sender, parts[1:])

    def _where_is(self, agent: Agent, envelope: WhereIs, parts: Parts) -> None:
        where = Where(envelope.slot, envelope.task, *self.mail.place_of(envelope.task))
        self.outbox.post(agent.number, [encode(where)])

    def _ask(self, agent: Agent, envelope: Ask, parts: Parts) -> None:
        task = self.tasks.get(envelope.task)

        def done(answer: Any, error: BaseException | None) -> None:
            head = encode(Answer(envelope.slot, envelope.ticket, error is None))
            said = answer if error is None else portable_error(error)
            self.outbox.post(agent.number, [head, *dump(said)])

        self.errands.run(lambda: self.setups.answer(task, load(parts[1:])), done)

    # Ending and taking back

    def stop(self, task: Task, why: str) -> None:
        """End a task that runs; its slot is asked what it runs first, so that no other is hit."""
        place: Place | None = task._place
        if place is None or task.done():
            return
        task._end = task._end or why
        self.scheduler.close(place)
        self._recall(place)
        self.pump.later(ANSWER_WITHIN, lambda: self._stop_unasked(task, place))

    def _recall(self, place: Place) -> None:
        place.ticket = next(self._tickets)
        self.outbox.post(place.agent, [encode(Recall(place.number, place.ticket))])

    def _stop_unasked(self, task: Task, place: Place) -> None:
        """The slot says nothing: it is deep in compiled code, so it has not gone on either.

        Its agent knows whether that is so; it may be the way there that is slow.
        """
        if task._place is place and place.ahead and place.ahead[0] is task and place.ticket:
            self._stop(place, place.ticket)

    def _stop(self, place: Place, ticket: int = 0) -> None:
        """End a slot's process; it gets nothing more to do until there is a new one."""
        if not place.stopping:
            place.stopping = True
            self.outbox.post(place.agent, [encode(Stop(place.number, place.life, ticket))])

    def _given_back(self, agent: Agent, envelope: GivenBack, parts: Parts) -> None:
        place = agent.places[envelope.slot]
        if envelope.ticket == place.ticket:
            place.ticket = 0
            place.stopping = False  # it has answered, so its agent does not end it unasked
        back = set(envelope.tasks)
        returned = [task for task in place.ahead if task.id in back]
        for task in reversed(returned):
            self.scheduler.ended(place, task)
            task._waits_again()
        self._put_back(returned, place)
        self._begins(place)
        targets = [] if self.inline else [task for task in place.ahead if task._end]
        if place.stopping or place.ticket:
            return  # what it says late is no reason to give it more, nor what is not its last word
        if any(task.id == envelope.running for task in targets):
            self._stop(place)
        elif targets and place.ahead[0]._end:  # between two calls when it was asked
            self.pump.later(_AGAIN, lambda: self._recall(place))
        elif not agent.refreshing:
            self.scheduler.open(place)

    def _put_back(self, tasks: list[Task], place: Place) -> None:
        """Let tasks that were given back wait; those that are not to run any more end.

        These come next: what their callbacks wait for must be in order before.
        """
        goes_on: list[Task] = []
        over: list[tuple[Task, Place]] = []
        for task in tasks:
            if task._end or task._unwanted:
                over.append((task, place))
            else:
                goes_on.append(task)
        self.scheduler.put_back(goes_on)
        self.pump.before_others(self._ends, over)

    def _ends(self, come: tuple[Task, Place]) -> None:
        task, place = come
        if task._end:
            self.end(task, False, self._reason(task, place, None, ""))
        else:
            self.cancelled(task)

    def _unstick(self) -> None:
        """Let what waits behind long calls go to slots that have nothing to do."""
        self._looking = False
        if not self.scheduler.idle or not self.scheduler.ahead:
            return
        for agent in self.agents.values():
            for place in agent.places:
                if len(place.ahead) > 1 and not place.closed and not place.ticket:
                    self._recall(place)

    def kill(self, task: Task) -> None:
        """End a running task; from any thread."""
        if self.inline:
            raise UnsupportedByEngine(self.engine.name, "end inline tasks", NOT_INLINE)
        self.pump.call(lambda: self.stop(task, "killed"))

    def kill_all(self) -> None:
        """Cancel what waits and end what runs, all at once, so that nothing begins meanwhile."""
        places: dict[Place, None] = {}
        waiting: list[Task] = []
        for task in self.known():
            place: Place | None = task._place
            if place is None:
                if task._state == "PENDING":  # otherwise its outputs are being published
                    waiting.append(task)
                continue
            places[place] = None
            if not (self.inline and task is place.ahead[0]):
                task._end = task._end or "killed"
        for place in places:
            self.scheduler.close(place)
            self._recall(place)
            if not self.inline:
                head = place.ahead[0]
                self.pump.later(ANSWER_WITHIN, functools.partial(self._stop_unasked, head, place))
        self.scheduler.drop(waiting)
        for task in waiting:  # last, for their callbacks may wait for others
            self.cancelled(task)
        if self.inline and places:
            raise UnsupportedByEngine(self.engine.name, "end inline tasks", NOT_INLINE)

    def take_back(self, task: Task) -> bool:
        """Cancel a task if it has not begun; from any thread, blocks while its slot is asked."""
        self.take_back_all([task])
        return task.cancelled()

    def take_back_all(self, tasks: Iterable[Task]) -> None:
        """The same for many, whose slots are asked at the same time."""
        left = deque(self.pump.call(lambda: self._cancel_waiting(tasks)))

        def answered() -> bool:
            while left and (left[0]._place is None or left[0]._state != "PENDING"):
                left.popleft()
            return not left

        if left:
            asked = list(left)
            self.pump.until(answered, ANSWER_WITHIN)
            self.pump.call(lambda: self._cancel_no_more(asked))

    def _cancel_waiting(self, tasks: Iterable[Task]) -> list[Task]:
        """Cancel what waits here, and ask for the rest; that is what is returned."""
        elsewhere: list[Task] = []
        self.take_in()
        for task in tasks:
            if task.done() or task._state == "RUNNING":
                continue
            if task._place is None:
                self.cancelled(task)
            else:
                task._unwanted = True
                elsewhere.append(task)
        for place in dict.fromkeys(task._place for task in elsewhere):
            if not (place.closed and place.ticket):
                self._recall(place)
        return elsewhere

    def _cancel_no_more(self, tasks: Iterable[Task]) -> None:
        """What has begun meanwhile, or whose slot says nothing, runs."""
        for task in tasks:
            task._unwanted = False

    def cancelled(self, task: Task) -> None:
        """A task that waits is not to run."""
        if self.tasks.pop(task.id, None) is not None:
            task._arguments = None
            self.mail.forget(task)
            task._cancelled()
            if task._options.notify:
                self.mail.put(task.id, TaskResult(task.id, False, CancelledError()))
                self.mail.put(task.id, TaskExit(task.id))

    # What agents do themselves

    def order(self, what: str, *, each: bool) -> dict[int, str]:
        """Have ``each`` agent, or one on each host, do something; tickets → host names."""
        tickets: dict[int, str] = {}
        for agent in self.agents.values():
            if agent.facts is not None and (each or agent.facts.host not in tickets.values()):
                ticket = next(self._tickets)
                tickets[ticket] = agent.facts.host
                self.orders[ticket] = None
                agent.tickets.append(ticket)
                if what == "refresh":  # what is sent to a process that goes would be lost
                    agent.refreshing = ticket
                    for place in agent.places:
                        self.scheduler.close(place)
                self.outbox.post(agent.number, [encode(Order(ticket, what))])
        return tickets

    def all_done(self, tickets: Iterable[int]) -> bool:
        """Whether all that was ordered is done, or its host gone."""
        return all(self.orders[ticket] is not None for ticket in tickets)

    def abandon(self) -> None:
        """The cluster is closed: what has not ended never will."""
        for task in self.known():
            if task._place is None and task._state == "PENDING":
                self.cancelled(task)
            else:
                self.end(task, False, TaskKilled(task.label, task.host or "its host"))

    # Hosts that come and go

    def _hello(self, agent: Agent, facts: Hello, parts: Parts) -> None:
        if agent.facts is not None:
            return
        agent.facts = facts
        station = self.scheduler.stations.get(facts.host)
        if station is None:
            station = Station(facts.host, facts.cores, facts.memory, facts.gpus)
        for number in range(facts.slots):
            place = Place(agent.number, number, station)
            agent.places.append(place)
            self.scheduler.add(place)
        self._know(station, facts.python)

    def _know(self, station: Station, python: str) -> None:
        known = self.hosts.get(station.name)
        gpus = tuple(station.gpus) if known is None else known.gpus
        host = Host(station.name, len(station.places), station.cores, station.memory, gpus, python)
        self.hosts[station.name] = host
        if known is None:
            self.mail.put(SPAWNER, HostAdded(host))

    def left(self, number: int, why: str) -> None:
        """An agent is gone, and the tasks that it ran with it."""
        agent = self.agents.pop(number, None)
        if agent is None or self.closing:
            return
        for place in agent.places:
            ahead = self.scheduler.remove(place)
            self._lose(place, ahead[:1], ahead[1:], None, why)
        for ticket in agent.tickets:
            if self.orders.get(ticket, ()) is None:
                self.orders[ticket] = number, False, why
        if agent.facts is not None:
            station = self.scheduler.stations.get(agent.facts.host)
            if station is None:
                self.mail.put(SPAWNER, HostDeleted(self.hosts.pop(agent.facts.host)))
            else:  # another agent is still there
                self._know(station, agent.facts.python)
        self._has_lost_hosts = True
        self._end_unmet()

    def _end_unmet(self) -> None:
        if not self.agents:
            self.pump.later(_NOBODY, self._fail_alone)
        for task in self.scheduler.unmet():
            lost = TaskLost(task.label, "its host", None, "no host is left that could run it")
            self.end(task, False, lost)

    def _fail_alone(self) -> None:
        if not self.agents and self.failure is None:
            self.fail(EngineFailed(self.engine.name, "all of its hosts are gone"))

    def _lose(
        self, place: Place, begun: list[Task], others: list[Task], exit_code: int | None, why: str
    ) -> None:
        """A slot's process is gone with the call that had begun; the others go elsewhere."""
        for task in others:
            task._waits_again()
        self._put_back(others, place)
        for task in begun:
            self.end(task, False, self._reason(task, place, exit_code, why))

    def _slot_ended(self, agent: Agent, envelope: SlotEnded, parts: Parts) -> None:
        place = agent.places[envelope.slot]
        place.known.clear()
        place.life += 1
        place.stopping = False
        place.ticket = 0
        ahead = list(place.ahead)
        if ahead and envelope.text:
            self._said(agent, Said(envelope.slot, ahead[0].id, 0, envelope.text, True), [])
        for task in reversed(ahead):
            self.scheduler.ended(place, task)
        why = _last_line(envelope.text) if envelope.exit_code else ""
        begun = ahead[:1] if envelope.began else []
        if not agent.refreshing:
            self.scheduler.open(place)
        self._lose(place, begun, ahead[len(begun) :], envelope.exit_code, why)

    def _order_done(self, agent: Agent, envelope: OrderDone, parts: Parts) -> None:
        if envelope.ticket in self.orders:
            self.orders[envelope.ticket] = agent.number, envelope.ok, envelope.value
        if envelope.ticket == agent.refreshing:
            agent.refreshing = 0
            for place in agent.places:
                if self.inline or not (place.stopping or any(task._end for task in place.ahead)):
                    self.scheduler.open(place)

    def beat(self) -> None:
        """Ask all agents for a sign of life; those that give none for long are lost.

        So each knows, too, that there is somebody.
        """
        for agent in list(self.agents.values()):
            if agent.heard:
                agent.missed = 0
            else:
                agent.missed += 1
            if agent.missed >= MISSED:
                self.left(agent.number, f"nothing was heard of it for {BEAT * MISSED:g} s")
                self.engine.give_up(agent.number)
                self.outbox.post(agent.number, [encode(End())])  # maybe it was only cut off
                continue
            agent.heard = False
            self.outbox.post(agent.number, [encode(Ping(0))])
        self.pump.later(BEAT, self.beat)

    def fail(self, exc: Exception) -> None:
        """The engine as a whole is gone: everything fails."""
        failure = exc if isinstance(exc, EngineFailed) else None
        if failure is None:
            failure = EngineFailed(self.engine.name, f"{type(exc).__name__}: {exc}")
            failure.__cause__ = exc
        self.failure = failure
        for task in self.known():
            self.end(task, False, TaskLost(task.label, "its host", None, failure.why))


def _nothing(*_: object) -> None:
    """What is done about an errand that nobody waits for."""


def _last_line(text: bytes) -> str:
    """The line of a dead process's output that says most: what Python says, or the last."""
    lines = text.decode("utf-8", "replace").strip().splitlines()
    fatal = [line for line in lines if line.startswith("Fatal Python error")]
    return (fatal or lines[-1:] or [""])[0][:200]

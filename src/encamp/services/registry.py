"""All services of one cluster, at its controller: starts servers, and says who may call whom.

All of it runs in the thread that drives the cluster's pump.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from encamp.agent.pickling import dump, dump_failure, load, portable_error
from encamp.agent.protocol import SERVICES, SPAWNER
from encamp.cluster.options import SpawnOptions
from encamp.cluster.task import Task
from encamp.errors import (
    BadFrame,
    EncampError,
    NotEnough,
    ServerLost,
    ServiceEnded,
    ServiceFailed,
    TaskKilled,
    TaskLost,
    UnsupportedByEngine,
    words_of,
)
from encamp.model import ServerStatistics, ServiceStatistics
from encamp.services.circles import Circles
from encamp.services.consoles import Consoles
from encamp.services.here import program_end
from encamp.services.letters import (
    END,
    RELEASE,
    Acquire,
    Alive,
    Answers,
    Ask,
    Asked,
    Broken,
    Call,
    Calls,
    Circle,
    Dying,
    Forget,
    Free,
    Granted,
    Letter,
    Lost,
    Ready,
    Refused,
    Saved,
    Told,
    Uses,
    Waits,
    WaitsNoMore,
    decode,
    encode,
)
from encamp.services.pool import STARTING, Pool, Request, Seat
from encamp.services.program_end import ProgramEnd
from encamp.services.saved import Kept, States
from encamp.services.server import Blueprint, Terms, serve
from encamp.services.watch import Watch
from encamp.services.windows import Opener, Windows
from encamp.wire import Parts, own

if TYPE_CHECKING:
    from encamp.cluster.cluster import Cluster

_log = logging.getLogger("encamp")
_UNKNOWN = -1
_TOGETHER = 1000
_FORMER = 100
"""Servers that are gone of which each service still tells."""
Entry = tuple[int, Call, Parts]
"""A call of a server's log, with its client and large buffers."""
_SAY_AFTER = 1.0
"""Seconds after which it is said that servers wait for slots."""


@dataclass(frozen=True)
class Published:
    """How a service was published. ``count`` is None for as many as there are slots or hosts."""

    name: str
    blueprint: Blueprint
    options: SpawnOptions
    per: str
    count: int | None
    restarts: int
    checkpoint_every: int
    at_least_once: bool
    idle_limit: float | None
    call_limit: float | None
    windows: Windows | None


class Service:
    """One service, as the registry sees it."""

    def __init__(self, number: int, published: Published, pool: Pool) -> None:
        self.number, self.published, self.pool = number, published, pool
        self.methods: list[str] = []
        self.ended = False
        self.failure: ServiceFailed | None = None
        self.lost = 0
        self.deaths = 0
        """Servers that have died one after the other without having answered anything."""
        self.withdrawn = 0
        """Servers that are not to be replaced."""
        self.states: list[Kept] = []
        """States of dead servers that their successors take over."""
        self.said = False
        self.watch: Watch | None = None
        self.former: deque[ServerStatistics] = deque(maxlen=_FORMER)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.published.name

    def over(self) -> EncampError | None:
        """Why nobody can have a server of it any more, if that is so."""
        return ServiceEnded(self.name) if self.ended else self.failure


class Registry:
    """The services of a cluster; its `Tenant`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = ref(cluster)
        self._controller = controller = cluster._controller
        self._pump = controller.pump
        self.token = secrets.token_hex(8)
        self.end = ProgramEnd(controller, self)
        program_end(self.token, self.end)
        self._services: dict[int, Service] = {}
        self._numbers, self._seats = itertools.count(1), itertools.count(1)
        self._leases, self._orders = itertools.count(1), itertools.count(1)
        self._by_seat: dict[int, tuple[Service, Seat]] = {}
        self._by_task: dict[int, tuple[Service, Seat]] = {}
        self._held: dict[int, set[Seat]] = {}
        """By tasks, the servers that they have."""
        self._lost: dict[int, Lost] = {}
        self._errors: dict[int, EncampError] = {}
        self._winding_up = self._closed = self._said_crowded = False
        self._states = States(controller.errands)
        self._consoles = Consoles()
        self._windows = Opener(controller.pump, controller.errands)
        self._circles = Circles(self._seats_of, self._seat_of, self._waits_for)
        self._waiters: list[tuple[int, int, Service, int]] = []
        """Who waits for how many servers to be ready: client, ticket, service, number."""
        self._handlers: dict[type, Callable[[int, Any, Parts], None]] = {
            Acquire: self._acquire,
            Forget: self._forget,
            Free: self._free,
            Uses: self._uses,
            Ask: self._ask,
            Calls: self._relay,
            Ready: self._ready,
            Answers: self._answers,
            Saved: self._saved,
            Dying: self._dying,
            Alive: self._alive,
            Waits: self._waits,
            WaitsNoMore: lambda sender, letter, _: self._circles.waits_no_more(
                sender, letter.ticket
            ),
        }
        controller.tenant = self

    # Tenant

    @property
    def lasting(self) -> int:
        """See `Tenant.lasting`."""
        return len(self._by_task)

    @property
    def resting(self) -> int:
        """See `Tenant.resting`."""
        return max(0, len(self._by_task) - self.end.awaited - len(self._held))

    @property
    def idle(self) -> bool:
        """See `Tenant.idle`."""
        return not (self.end.busy or any(one.pool.waiting for one in self._services.values()))

    def arrived(self, sender: int, parts: Parts) -> None:
        """See `Tenant.arrived`."""
        with suppress(BadFrame):
            self.letter(sender, decode(parts[0]), parts[1:])

    def letter(self, sender: int, letter: Letter, parts: Parts) -> None:
        """Handle a letter of a client or a server."""
        handler = self._handlers.get(type(letter))
        if handler is not None:
            handler(sender, letter, parts)

    def crowded(self) -> None:
        """See `Tenant.crowded`."""
        if not self._said_crowded and not self._pump.driving:
            self._said_crowded = True
            names = ", ".join(one.name for one in self._services.values() if not one.ended)
            _log.warning(
                "tasks wait, since servers have all slots: publish %s with count=, or terminate it",
                names,
            )

    def hosts_changed(self) -> None:
        """See `Tenant.hosts_changed`."""
        self._pump.soon(self._reconcile)

    def wind_up(self) -> None:
        """See `Tenant.wind_up`."""
        self._winding_up = True
        for service in self._services.values():
            self.terminate(service)

    def close(self) -> None:
        """See `Tenant.close`."""
        self._winding_up = self._closed = True
        self._states.close()
        self._consoles.close()

    # Publishing

    def publish(self, published: Published) -> Service:
        """Start the servers of a service; see `encamp.services.service.publish`."""
        service = Service(next(self._numbers), published, Pool(self._leases, self._orders))
        self._services[service.number] = service
        try:
            self._fill(service)
        except BaseException:
            service.ended = True
            del self._services[service.number]
            raise
        self._watch_over(service)
        return service

    def _watch_over(self, service: Service) -> None:
        """Have servers that answer nothing for too long replaced, if that is wanted."""
        limit = service.published.call_limit
        if limit is None:
            return

        def seats() -> list[Seat] | None:
            some = service.pool.seats.values()
            over = self._closed or (service.over() is not None and not some)
            return None if over else [seat for seat in some if seat.ready]

        service.watch = Watch(
            self._pump, limit, seats, lambda seat: self._post(seat.address, Asked()), self._overdue
        )

    def _overdue(self, seat: Seat) -> None:
        if seat.task is not None and not seat.overdue:
            seat.overdue = True
            self._controller.recalls.stop_at_once(seat.task, "overdue")

    def _wanted(self, service: Service) -> list[str]:
        """How many servers there are to be: of each its host, or "" where that does not matter."""
        published = service.published
        on = published.options._need().on
        stations = [
            station
            for station in self._controller.scheduler.stations.values()
            if on is None or station.name in on
        ]
        if published.per == "host":
            wanted = [station.name for station in stations]
        else:
            wanted = [""] * sum(len(station.places) for station in stations)
        if published.count is not None:
            wanted = (
                wanted[: published.count] if published.per == "host" else [""] * published.count
            )
        return wanted

    def _fill(self, service: Service) -> None:
        """Start the servers that are missing; those that wait and are too many go."""
        if service.over() is not None or self._winding_up:
            return
        wanted = self._wanted(service)
        seats = list(service.pool.seats.values())
        if service.published.per == "host":
            missing = [host for host in wanted if host not in {seat.fixed for seat in seats}]
            missing = missing[: max(0, len(wanted) - len(seats) - service.withdrawn)]
        else:
            missing = [""] * max(0, len(wanted) - len(seats) - service.withdrawn)
            waiting = [seat for seat in seats if seat.task is not None and seat.task._place is None]
            for seat in waiting[: max(0, len(seats) - max(1, len(wanted)))]:
                if seat.task is not None and seat.task._state == "PENDING":
                    self._controller.scheduler.drop([seat.task])
                    self._controller.recalls.cancelled(seat.task)
        for host in missing:
            seat = Seat(next(self._seats), fixed=host)
            service.pool.seats[seat.number] = seat
            self._by_seat[seat.number] = service, seat
            try:
                self._start(service, seat)
            except BaseException:
                del service.pool.seats[seat.number], self._by_seat[seat.number]
                raise
        if missing and not service.said:
            service.said = True
            self._pump.later(_SAY_AFTER, lambda: self._say_what_waits(service))

    def _start(self, service: Service, seat: Seat) -> None:
        cluster = self._cluster()
        if cluster is None:
            return
        published = service.published
        state = None
        if service.states:
            state = self._states.adopt(seat.number, service.states.pop(0))
        terms = Terms(
            service.name,
            seat.number,
            published.checkpoint_every,
            published.idle_limit,
            published.call_limit,
        )
        options = published.options
        if seat.fixed:
            options = replace(options, on=seat.fixed)
        heard = partial(self._consoles.printed, seat.number)
        name = options.name or f"{service.name} {seat.number}"
        options = replace(options, owner=self, name=name, heard=heard)
        args = (terms, published.blueprint, state)
        seat.task = cluster._spawn(serve, args, {}, options)
        seat.given, seat.ready, seat.overdue = 0, False, False
        self._by_task[seat.task.id] = service, seat
        self._consoles.introduce(service.name, seat.number)

    def _say_what_waits(self, service: Service) -> None:
        waiting = self._without_slot(service)
        if waiting and service.over() is None:
            _log.warning("%s", waiting_for_slots(service.name, waiting, self._holders(service)))

    def _without_slot(self, service: Service) -> int:
        seats = service.pool.seats.values()
        return sum(seat.task is not None and seat.task._place is None for seat in seats)

    def _holders(self, service: Service) -> list[str]:
        """Other services that have slots."""
        return [
            one.name
            for one in self._services.values()
            if one is not service and not one.ended and one.pool.live()
        ]

    def _reconcile(self) -> None:
        """Have as many servers of each service as there are to be."""
        for service in list(self._services.values()):
            if service.over() is None and not self._winding_up and self._usable():
                try:
                    self._fill(service)
                except EncampError as exc:
                    self._fail(service, words_of(exc), exc)
                self._refuse_too_many(service)

    def _usable(self) -> bool:
        controller = self._controller
        cluster = self._cluster()
        gone = controller.failure is not None or controller.closing
        return not gone and cluster is not None and not cluster._life.closed

    def terminate(self, service: Service, *, cancel: bool = False) -> None:
        """End a service: servers end when they have done what they were told by now, or at once."""
        if not service.ended:
            service.ended = True
            self._refuse_all(service, ServiceEnded(service.name))
        for seat in list(service.pool.seats.values()):
            task = seat.task
            if task is None:
                continue
            if task._place is None and task._state == "PENDING":
                self._controller.scheduler.drop([task])
                self._controller.recalls.cancelled(task)
            elif cancel:
                with suppress(UnsupportedByEngine):
                    task.kill()
            else:
                self._order(seat, END)

    def _order(self, seat: Seat, op: int, lease: int = 0) -> None:
        call = (0, lease, op, "", b"", 0)
        self._post(seat.address, Calls(seat.number, [call]))

    def _release(self, seat: Seat) -> None:
        """The task that has a server has ended: the server is free behind what it was told."""
        service, _ = self._by_seat[seat.number]
        if service.published.at_least_once:
            call = (0, seat.lease, RELEASE, "", b"", 0)
            self._relay(SPAWNER, Calls(seat.number, [call], SPAWNER), [])
        else:
            self._order(seat, RELEASE, seat.lease)

    # Telling clients and servers

    def _post(self, task: int, letter: Letter, payload: Parts = []) -> None:  # noqa: B006
        self._controller.mail.send(task, SPAWNER, [encode(letter), *payload], SERVICES)

    def _tell(self, client: int, letter: Letter, payload: Parts = []) -> None:  # noqa: B006
        if client == SPAWNER:
            self.end.take(letter, payload)
        else:
            self._post(client, letter, payload)

    # Acquiring

    def _acquire(self, sender: int, letter: Acquire, parts: Parts) -> None:
        service = self._services.get(letter.service)
        error: EncampError | None
        if service is None:
            error = ServiceEnded("the service")
        else:
            error = service.over() or self._impossible(service, letter)
        if error is not None or service is None:
            self._tell(sender, Refused(letter.ticket), dump(error))
            return
        service.pool.ask(sender, letter.ticket, letter.count, letter.seat)
        self._grant(service)

    def _impossible(self, service: Service, letter: Acquire) -> EncampError | None:
        """Why a request will never be met."""
        if letter.seat and letter.seat not in service.pool.seats:
            return self._errors.get(letter.seat) or ServiceEnded(service.name)
        most = len(service.pool.seats)
        if letter.count > most and letter.count > (most := max(most, len(self._wanted(service)))):
            return NotEnough(f"servers of {service.name}", letter.count, most, together=True)
        return None

    def _grant(self, service: Service) -> None:
        for request, seats in service.pool.grants():
            if request.client != SPAWNER:
                if request.client not in self._controller.tasks:  # it has ended
                    for seat in seats:
                        service.pool.freed(seat)
                    continue
                self._held.setdefault(request.client, set()).update(seats)
            for seat in seats:
                seat.group = seats[0].lease if request.count != 1 else 0
            leases = [(seat.number, seat.address, seat.lease) for seat in seats]
            relayed = service.published.at_least_once
            granted = Granted(request.ticket, leases, relayed, service.methods)
            self._tell(request.client, granted)

    def _forget(self, sender: int, letter: Forget, parts: Parts) -> None:
        for service in self._services.values():
            service.pool.forget(sender, letter.ticket)
            self._grant(service)
        waiters = self._waiters
        self._waiters = [one for one in waiters if one[:2] != (sender, letter.ticket)]

    def _refuse_all(self, service: Service, error: EncampError) -> None:
        for request in service.pool.requests():
            self._refuse(service, request, error)
        self._tell_waiters()

    def _refuse(self, service: Service, request: Request, error: EncampError) -> None:
        service.pool.forget(request.client, request.ticket)
        self._tell(request.client, Refused(request.ticket), dump(error))

    def _refuse_too_many(self, service: Service) -> None:
        """Refuse requests for more servers than there will be."""
        most = max(len(service.pool.seats), len(self._wanted(service)))
        for request in service.pool.requests():
            if request.count > most:
                error = NotEnough(f"servers of {service.name}", request.count, most, together=True)
                self._refuse(service, request, error)

    def _free(self, sender: int, letter: Free, parts: Parts) -> None:
        found = self._by_seat.get(letter.seat)
        if found is not None and found[1].lease == letter.lease:
            self._freed(*found)

    def _freed(self, service: Service, seat: Seat) -> None:
        held = self._held.get(seat.holder)
        if held is not None:
            held.discard(seat)
        service.pool.freed(seat)
        self._grant(service)

    def _uses(self, sender: int, letter: Uses, parts: Parts) -> None:
        found = self._by_seat.get(letter.seat)
        if found is not None:
            found[1].clients.add(sender)
        elif letter.seat in self._errors:
            lost, error = self._lost[letter.seat], self._errors[letter.seat]
            self._pump.soon(lambda: self._tell(sender, lost, dump(error)))

    # What servers say

    def _ready(self, sender: int, letter: Ready, parts: Parts) -> None:
        found = self._by_task.get(sender)
        if found is None:
            return
        service, seat = found
        service.methods = letter.methods
        task = seat.task
        seat.host = (task.host if task is not None else "") or ""
        self._show(service, seat)
        if service.ended:
            self._order(seat, END)
            return
        seat.ready = True
        if seat.log:
            self._replay(seat)
        if seat.state == STARTING:
            service.pool.opened(seat)
        self._grant(service)
        self._tell_waiters()

    def _show(self, service: Service, seat: Seat) -> None:
        """Have the console of a server found by where it is, and opened if that is wanted."""
        number, windows = seat.number, service.published.windows
        slot = None if seat.task is None else seat.task.slot
        self._consoles.introduce(service.name, number, seat.host, slot)
        if windows is not None and seat.state == STARTING:
            self._windows.open(windows, f"{service.name}/{number}", seat.host)

    def _answers(self, sender: int, letter: Answers, parts: Parts) -> None:
        found = self._by_task.get(sender)
        if found is not None:
            service, seat = found
            seat.seen = letter.seen
            if letter.answers:
                service.deaths = 0
                self.end.take(letter, parts)
            for lease in letter.freed:
                if lease == seat.lease:
                    self._freed(service, seat)

    def _dying(self, sender: int, letter: Dying, parts: Parts) -> None:
        found = self._by_task.get(sender)
        if found is not None:
            found[1].began = letter.about, letter.number

    def _alive(self, sender: int, letter: Alive, parts: Parts) -> None:
        found = self._by_task.get(sender)
        if found is not None and found[0].watch is not None:
            found[0].watch.answered(sender)

    def _saved(self, sender: int, letter: Saved, parts: Parts) -> None:
        found = self._by_task.get(sender)
        if found is None:
            return
        _, seat = found

        def kept(new: int) -> None:
            """The state is on the disk: what it knows of need not be run again."""
            if seat.address == sender:
                for _ in range(min(new, len(seat.log))):
                    seat.log.popleft()
                    seat.given -= 1

        self._states.keep(seat.number, letter.serial, own(parts), kept)

    def _relay(self, sender: int, letter: Calls, parts: Parts) -> None:
        """Pass calls on to a server that is replaced with all that it was told."""
        found = self._by_seat.get(letter.seat)
        if found is None:
            return
        _, seat = found
        at = 0
        kept = own(parts)
        for call in letter.calls:
            seat.log.append((letter.client, call, kept[at : at + call[5]]))
            at += call[5]
        if seat.ready:
            self._replay(seat)

    def _replay(self, seat: Seat) -> None:
        """Send a server what of its log it does not have."""
        new = itertools.islice(seat.log, seat.given, None)
        for client, entries in itertools.groupby(new, lambda entry: entry[0]):
            for some in _few(entries):
                calls = [call for _, call, _ in some]
                buffers = [part for _, _, parts in some for part in parts]
                self._post(seat.address, Calls(seat.number, calls, client), buffers)
        seat.given = len(seat.log)

    # What ends

    def ended(self, task: Task, good: bool, value: Any) -> None:
        """See `Tenant.ended`."""
        found = self._by_task.pop(task.id, None)
        if found is not None:
            self._server_ended(*found, task, good, value)
        self._circles.waits_no_more(task.id)
        held = self._held.pop(task.id, ())
        for seat in list(held):
            if seat.holder == task.id and seat.number in self._by_seat:
                self._release(seat)
        for service in self._services.values():
            if service.pool.waiting:
                service.pool.forget(task.id)

    def _server_ended(
        self, service: Service, seat: Seat, task: Task, good: bool, value: Any
    ) -> None:
        self._states.settle(seat.number)
        expected = good or service.ended or isinstance(value, TaskKilled)
        died = isinstance(value, TaskLost)
        served = seat.state != STARTING
        if not expected and died:
            service.lost += 1
            # a lost host is not their fault
            service.deaths += value.exit_code is not None or seat.overdue
        bound = service.published.restarts * max(1, len(service.pool.seats))
        again = died and service.deaths <= bound and not service.ended
        if again and service.published.at_least_once and served and self._usable():
            self._revive(service, seat, task)
            return
        self._lose(service, seat, task, good, value)
        if again:
            saved = self._states.take(seat.number)
            if saved is not None:
                service.states.append(saved)
        elif not service.ended:
            service.withdrawn += 1
        self._pump.soon(lambda: self._after_end(service, value))

    def _after_end(self, service: Service, value: Any) -> None:
        self._reconcile()
        if not service.pool.seats and service.over() is None:
            error = value if isinstance(value, BaseException) else None
            self._fail(service, "all have ended" if error is None else words_of(error), error)
        self._grant(service)

    def _fail(self, service: Service, why: str, cause: BaseException | None) -> None:
        service.failure = ServiceFailed(service.name, why)
        if cause is not None:
            service.failure.__cause__ = portable_error(cause)
        self._refuse_all(service, service.failure)

    def _revive(self, service: Service, seat: Seat, task: Task) -> None:
        """Start a server again that is to run all that its predecessor did since its last state."""
        mark = seat.began or task._mark
        if mark == seat.poison and mark != (0, 0):
            self._give_up(service, seat, mark)
        seat.poison, seat.began = mark, None
        saved = self._states.take(seat.number)
        if saved is not None:
            service.states.insert(0, saved)
        seat.given, seat.ready = 0, False

        def start() -> None:
            try:
                self._start(service, seat)
            except EncampError as exc:
                self._lose(service, seat, task, False, exc)

        self._pump.soon(start)

    def _give_up(self, service: Service, seat: Seat, mark: tuple[int, int]) -> None:
        """A call that two servers have died of is not tried again."""
        for at, (client, call, _) in enumerate(seat.log):
            if (client, call[0]) == mark:
                del seat.log[at]
                error = ServerLost(service.name, call[3], seat.host, True)
                payload = bytes(dump_failure(error)[0])
                letter = Answers(seat.number, [(call[0], False, payload, 0)], [], seat.seen)
                self._tell(client, letter)
                return

    def _lose(self, service: Service, seat: Seat, task: Task, good: bool, value: Any) -> None:
        """A server is gone: clients are told, and nobody gets it any more."""
        about, number = seat.began or task._mark
        if seat.began is None and isinstance(value, TaskLost) and value.exit_code is None:
            about = _UNKNOWN
        error = self._error_of(service, seat, task, good, value)
        letter = Lost(seat.number, about, number)
        group, holder = seat.group, seat.holder
        if group and holder in self._held:
            self._held[holder].discard(seat)
        pinned = service.pool.removed(seat)
        state = "ended" if isinstance(error, ServiceEnded) else "lost"
        service.former.append(replace(statistics_of(seat), state=state))
        self._by_seat.pop(seat.number, None)
        self._lost[seat.number], self._errors[seat.number] = letter, error
        self._consoles.ended(seat.number)
        payload = dump(portable_error(error))
        for client in seat.clients:
            if client == SPAWNER or client in self._controller.tasks:
                self._tell(client, letter, payload)
        for request in pinned:
            self._tell(request.client, Refused(request.ticket), payload)
        if group:
            for other in service.pool.seats.values():
                if other.group == group:
                    self._post(other.address, Broken(group))

    def _error_of(
        self, service: Service, seat: Seat, task: Task, good: bool, value: Any
    ) -> EncampError:
        """What clients of a server that is gone are told."""
        if good or service.ended:
            return ServiceEnded(service.name)
        lost = self._states.since(seat.number, seat.seen[0])
        error = ServerLost(service.name, "", task.host or "", None, lost=lost)
        if seat.overdue:
            error.limit = service.published.call_limit
        elif isinstance(value, TaskLost):
            error.exit_code, error.why = value.exit_code, value.why
        elif isinstance(value, BaseException):
            error.why = words_of(value)
        return error

    # Questions

    def _ask(self, sender: int, letter: Ask, parts: Parts) -> None:
        service = self._services[letter.service]
        arguments = load(parts)
        if letter.what == "ready":
            self._waiters.append((sender, letter.ticket, service, *arguments))
            self._tell_waiters()
            return
        answer: Any = None
        if letter.what == "statistics":
            answer = self._statistics(service)
        elif letter.what == "servers":
            answer = [seat.number for seat in service.pool.seats.values()]
        elif letter.what == "terminate":
            self.terminate(service, cancel=arguments[0])
        self._tell(sender, Told(letter.ticket), dump(answer))

    def _tell_waiters(self) -> None:
        """Tell those who wait for servers, as far as there are enough, or never will be."""
        left = []
        told: list[tuple[int, Letter, Parts]] = []
        for client, ticket, service, number in self._waiters:
            over = service.over()
            live = len(service.pool.live())
            most = max(len(service.pool.seats), len(self._wanted(service)))
            if over is None and number > most:
                over = NotEnough(f"servers of {service.name}", number, most, together=True)
            if over is not None:
                told.append((client, Refused(ticket), dump(portable_error(over))))
            elif live >= (number or most):
                told.append((client, Told(ticket), dump(live)))
            else:
                left.append((client, ticket, service, number))
        self._waiters = left
        for client, letter, payload in told:
            self._tell(client, letter, payload)

    def statistics(self) -> list[ServiceStatistics]:
        """See `Tenant.statistics`."""
        return [self._statistics(service) for service in self._services.values()]

    def _statistics(self, service: Service) -> ServiceStatistics:
        servers = tuple(statistics_of(seat) for seat in service.pool.seats.values())
        wanted = 0 if service.over() is not None else len(self._wanted(service))
        queue, former = service.pool.waiting, tuple(service.former)
        return ServiceStatistics(service.name, queue, wanted, service.lost, servers, former)

    # Circles

    def _waits(self, sender: int, letter: Waits, parts: Parts) -> None:
        if self._circles.waits(sender, letter):
            self._tell(sender, Circle(letter.ticket))

    def _seats_of(self, service: int) -> list[Seat]:
        return list(self._services[service].pool.seats.values())

    def _seat_of(self, number: int) -> Seat | None:
        found = self._by_seat.get(number)
        return None if found is None else found[1]

    def _waits_for(self, service: int, task: int) -> bool:
        known = self._services.get(service)
        return known is not None and any(
            request.client == task for request in known.pool.requests()
        )


def statistics_of(seat: Seat) -> ServerStatistics:
    """What a server has done, as far as it has told."""
    task, state = seat.task, seat.state
    if task is not None and task._place is None and not seat.ready:
        state = "waits for a slot"
    slot = None if task is None else task.slot
    return ServerStatistics(seat.number, seat.host, slot, state, *seat.seen)


def _few(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """As many at a time as go in one message."""
    while some := list(itertools.islice(entries, _TOGETHER)):
        yield some


def waiting_for_slots(name: str, count: int, holders: list[str]) -> str:
    """What is told of servers that have no slot."""
    who = (
        f"; {', '.join(holders)} {'has' if len(holders) == 1 else 'have'} slots" if holders else ""
    )
    return f"{count} server{'s' * (count != 1)} of {name} wait for free slots{who}"

"""A cluster: hosts, slots, spawned tasks, messages and events over any engine."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Unpack
from warnings import warn

from encamp.agent.agent import Agent, serve
from encamp.cluster.closing import Lifetime
from encamp.cluster.cluster_options import ClusterSettings, kind_of_slots
from encamp.cluster.controller import Controller
from encamp.cluster.events import Host
from encamp.cluster.hosts_table import rows_of, table
from encamp.cluster.kill_and_cancel import NOT_INLINE
from encamp.cluster.port import ClusterPort
from encamp.cluster.spawn_options import SpawnOptions, TaskOptions
from encamp.cluster.start_hosts import await_hosts, pings_hosts, shortcut_of, start_agents
from encamp.cluster.task import SpawnedTask
from encamp.engines.engine_interface import Endpoint, Engine
from encamp.engines.find_engine import open_endpoint
from encamp.engines.kit.closed_streams import open_standard_streams
from encamp.errors import (
    BadJob,
    ClusterClosed,
    EngineFailed,
    NotInTime,
    UnsupportedByEngine,
)
from encamp.notebook_html import box, heading
from encamp.notebook_html import table as markup_table
from encamp.number_checks import duration, patience, slot_count
from encamp.slot.current_task import task_number
from encamp.slot.small_messages import Shortcut
from encamp.units import counted
from encamp.wire.frames import changeable, own
from encamp.wire.pickling import dump_as
from encamp.wire.protocol import Received, SlotKind

if TYPE_CHECKING:
    from encamp.services.service import Service, ServiceOptions

SPAWNER = 0
"""The id to send messages to the program that has spawned the tasks."""
_ALL: weakref.WeakSet[Cluster] = weakref.WeakSet()
_USUAL = SpawnOptions(notify=True)


class Cluster:
    """Hosts with slots that run functions.

    engine
        The name of an engine, such as "local" or "mpi", an address such as "dask://host:8786", a
        client or cluster of Dask or ipyparallel, or an engine object.
    slots
        Number of slots on all hosts together; by default one for each core.
    inline
        Run tasks in the agents themselves instead of separate processes. Messages are then fastest,
        but a task that crashes ends its agent, and tasks cannot be killed. "threads" runs each
        slot's tasks in a thread, so that the agent itself stays free.
    startup_dir
        The current folder of tasks, even on other hosts if they have it; by default the program's.
    follow
        True to print the output of tasks while they run, or a function that gets the task's id and
        the text.
    output_limit
        Bytes of a task's output to keep, or a string like "20 MiB": half of them from the
        beginning, half from the end; with a line between them about what is left out.
    start_timeout
        Seconds to wait for the engine's hosts.
    init_command
        A shell command that each host runs before its slots start; the slots get the environment
        that it leaves. A string for all hosts, or a mapping of host names to strings, with "*" for
        all other hosts.
    niceness
        Added to the niceness of slots; also per host.
    interpreter
        A different Python interpreter for slots, also per host: its path there, or a name that is
        looked up there after `init_command`. It must be of the same Python version; its own
        packages take precedence over those of the program's interpreter.
    options
        Other options of the engine.

    A context manager: its end waits for all tasks, or kills them if the block raised an exception.
    A cluster that is dropped without `close` issues a ResourceWarning and ends after its tasks.
    Blocks until the hosts have joined. Raises `EngineUnavailable` or `EngineFailed`. Does not
    return in a process that the engine has started as a worker (a rank other than 0 under
    ``mpirun``).
    """

    def __init__(
        self,
        engine: str | Endpoint | Any = "local",
        *,
        slots: int | None = None,
        inline: bool | Literal["threads"] = False,
        startup_dir: str | Path | None = None,
        follow: bool | Callable[[int, str], None] = False,
        output_limit: int | str = "1 MiB",
        start_timeout: float = 60.0,
        init_command: str | Mapping[str, str] = "",
        niceness: int | Mapping[str, int] = 0,
        interpreter: str | Mapping[str, str] = "",
        **options: Any,
    ) -> None:
        if not (isinstance(inline, bool) or inline == "threads"):
            raise BadJob("inline", f"must be True, False or 'threads', not {inline!r}")
        if slots is not None:
            options["slots"] = slot_count(slots)
        within = duration("start_timeout", start_timeout)
        settings = ClusterSettings.checked(
            startup_dir, follow, output_limit, init_command, niceness, interpreter
        )
        open_standard_streams()
        endpoint = open_endpoint(engine, within, **options)
        if not isinstance(endpoint, Engine):
            serve(endpoint)
            raise SystemExit(0)
        self._engine = endpoint
        self._kind = kind_of_slots(inline, endpoint)
        if settings.named and self._kind is not SlotKind.PROCESS:
            what = "give inline tasks an init_command, niceness or interpreter"
            raise UnsupportedByEngine(endpoint.name, what, NOT_INLINE)
        self._controller = Controller(endpoint, kind=self._kind, follow=settings.follow)
        self._pump = self._controller.pump
        self._canceller = self._controller.kill_and_cancel
        self._shortcut: Shortcut | None = None
        self._life = Lifetime(self._controller)
        self._port = ClusterPort(self._controller, self._life)
        self._agent: Agent | None = None
        self._start(settings, within)
        _ALL.add(self)
        self._life.begin()

    def _start(self, settings: ClusterSettings, timeout: float) -> None:
        engine, controller = self._engine, self._controller
        try:
            self._agent = start_agents(controller, self._life, settings)
            await_hosts(controller, timeout, settings.named)
        except BaseException:
            self._life.closed = True
            self._life.end()
            raise
        controller.messages.clear()  # no events for the first hosts
        self._shortcut = controller.messages.shortcut = shortcut_of(controller, self._agent)
        if pings_hosts(controller):
            controller.agents.listen()
        if engine.elastic:
            controller.agents.report_needs()
        self._pump.start()

    # Hosts, slots and tasks

    def hosts(self) -> list[Host]:
        """The hosts, in the order in which they joined."""
        return list(self._controller.agents.hosts.values())

    def add_hosts(self, *hosts: str) -> None:
        """Add hosts, written as in the engine's option ``hosts``; they may be hosts that were lost.

        Blocks until they are being started; the event `HostAdded` reports each that joins. Raises
        `UnsupportedByEngine` if the engine's hosts are fixed, and `EngineFailed`.
        """
        self._check()
        self._engine.add_hosts(hosts)

    @property
    def slots(self) -> int:
        """Number of slots."""
        return self._controller.scheduler.slots

    @property
    def free_slots(self) -> int:
        """Number of idle slots."""
        self._check()
        self._pump.nudge()
        return self._controller.scheduler.idle

    def hosts_with_free_slots(self) -> dict[str, int]:
        """Host names → number of idle slots, for hosts that have some; the most first."""
        hosts = self._controller.scheduler.hosts.values()
        free = {host.name: len(host.free) for host in hosts if host.free}
        return dict(sorted(free.items(), key=lambda item: -item[1]))

    def tasks(self) -> list[SpawnedTask]:
        """The tasks that have not ended."""
        return [record.future for record in self._pump.call(self._controller.known)]

    def table(self) -> str:
        """Hosts, slots and tasks as lines of text."""
        return table(self.hosts(), self._controller.scheduler, self.tasks())

    # Spawning

    def spawn(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[TaskOptions],
    ) -> SpawnedTask:
        """Call ``function(*args, **kwargs)`` in a slot; returns at once.

        The task starts when a slot is free: on the host with the most free slots, or on one of
        ``on``. Arguments are pickled at that time, so do not change them until the task has ended.

        mirror, outputs, on_failure, to
            Give the task a private folder, see `sandbox`.
        persistent
            Keep this folder, as the task leaves it, for the slot's next persistent task with the
            same inputs.
        cores, memory, gpus
            What the task needs; memory in bytes, or as a string like "2 GiB". A host never gets
            more tasks than fit, and a task sees only its own GPUs.
        time_limit
            After this many seconds the task fails with `TimeLimitExceeded`.
        fresh
            Run the task in a new interpreter.
        notify
            Whether the task's result and end are put on the queue that `receive` reads. The queue
            keeps the result in memory until then.

        Raises an `InputError`, such as `CannotTravel`, `NoSuchHost` or `NotEnough`, the errors of
        `Mirror` and `Output`, and `ClusterClosed`.
        """
        if not options:
            return self._controller.spawn_soon(function, args, kwargs or {}, _USUAL)
        given = SpawnOptions.of({"notify": True, **options})
        return self._controller.spawn_soon(function, args, kwargs or {}, given)

    def spawn_many(
        self,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        /,
        **options: Unpack[TaskOptions],
    ) -> list[SpawnedTask]:
        """Spawn a task for each tuple of arguments, spread evenly. Options are as for `spawn`."""
        shared = SpawnOptions.of({"notify": True, **options})
        spawn = self._controller.spawn_soon
        return [spawn(function, _tuple(args), {}, shared) for args in arguments]

    def publish(self, what: Any, /, *args: Any, **options: Unpack[ServiceOptions]) -> Service:
        """Publish an object as a service, with one server in each slot. Returns at once.

        The service can be used as soon as one server is ready. Each server is a task with its own
        folder, so ``mirror``, ``outputs``, ``to``, ``cores``, ``memory`` and ``gpus`` are as for
        `spawn`. Hosts that join later get servers, too.

        what
            The object, or a class or function that creates it in each server from ``args`` and
            ``kwargs``.
        per, count, on
            ``per="host"`` starts one server on each host instead of one in each slot. ``count`` is
            the number of servers in total. ``on`` restricts them to some hosts.
        restarts
            A server that dies is replaced, but at most this many times in a row.
        checkpoint_every
            Save the state after this many calls, for the server that replaces a dead one. The state
            is what the object's ``checkpoint()`` returns, and is passed to ``restore(state)`` of
            the new object; an object without these methods is pickled.
        at_least_once
            Repeat calls that are not in the saved state, instead of failing them with `ServerLost`.
        call_limit
            Kill and replace a server that has not answered for this many seconds, because it is
            frozen or because a call takes longer.
        idle_limit
            End a server that has had no call for this many seconds.
        display, window, window_delay
            Open a terminal window with the output of each server on ``display`` (":0", or True for
            DISPLAY), with a size like ``window="80x24+0+0"``, ``window_delay`` seconds apart.
            Windows stay open when servers have ended.

        Raises an `InputError`, such as `NotEnough` if no slots can ever run the service;
        `UnsupportedByEngine` for a ``call_limit`` of inline servers; and `ClusterClosed`.
        """
        layer_above = import_module("encamp.services.service")
        service: Service = layer_above.publish(self._controller, self, what, args, options)
        return service

    # Messages

    def send(self, to: SpawnedTask | int, message: object) -> None:
        """Send an object to a task; does not wait until it is received.

        It is kept for a task that has not started, and dropped if the task has ended. The object
        may be changed afterwards: with large arrays `send` blocks until they have been copied or
        sent.
        """
        ours = type(to) is SpawnedTask and to._canceller is self._canceller
        number: Any = to.id if ours else to  # type: ignore[union-attr]
        if type(number) is not int:
            number = self._number(to)
        if self._shortcut is not None and self._shortcut.send(number, message):
            return
        self._send(self._number(to), message)

    def _number(self, task: SpawnedTask | int) -> int:
        if type(task) is not SpawnedTask:
            return task_number(task)
        if task._canceller is not self._canceller:
            raise TypeError(f"{task.name} is not a task of this cluster")
        return task.id

    def _send(self, number: int, message: object) -> None:
        """Send a message without the shortcut."""
        self._check()
        with self._pump.signals_deferred:  # a signal handler may raise
            payload = dump_as("the message", message)
        messages = self._controller.messages
        if not changeable(payload):
            self._pump.call_now_or_soon(lambda: self._controller.send(number, payload))
            return

        def send_large() -> None:
            at_once = self._agent is None and messages.is_sent_at_once(number)
            self._controller.send(number, payload if at_once else own(payload))

        with self._pump.signals_deferred:  # it is copied as it is now, or not sent at all
            self._pump.call(send_large)
        self._pump.until(lambda: not self._engine.sending or self._controller.failure is not None)

    def receive(
        self, timeout: float | None = None, source: SpawnedTask | int | None = None
    ) -> Received | None:
        """The next message or event with its sender's id; None on timeout.

        ``timeout`` in seconds; None waits forever, 0 does not wait. With ``source``, returns only
        messages of that task (0: events of hosts); the others stay in the queue, in order. Raises
        `EngineFailed` if nothing more can arrive, and `ClusterClosed`.
        """
        wanted = None if source is None else self._number(source)
        if timeout is not None:
            timeout = patience(timeout)
        if self._shortcut is not None:
            found = self._shortcut.receive(wanted, timeout)
            if found is not None:
                return found
        return self._receive(timeout, wanted)

    def _receive(self, timeout: float | None, wanted: int | None) -> Received | None:
        """A message from the queue, or the next that arrives there."""
        self._check()
        controller = self._controller
        got = controller.messages.take(wanted)
        if got is not None:
            return got
        found: list[Received] = []

        def ready() -> bool:
            got = controller.messages.take(wanted)
            if got is not None:
                found.append(got)
            return got is not None or controller.failure is not None

        if timeout == 0:
            if not ready():
                self._pump.nudge()
                ready()
        else:
            self._pump.until(ready, timeout)
        if found:
            return found[0]
        if controller.failure is not None:
            raise controller.failure
        if self._life.closed:
            raise ClusterClosed
        return None

    async def areceive(
        self, timeout: float | None = None, source: SpawnedTask | int | None = None
    ) -> Received | None:
        """`receive` for coroutines."""
        import asyncio

        loop = asyncio.get_running_loop()
        if timeout is not None:
            timeout = patience(timeout)
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            arrived = asyncio.Event()
            wake = partial(loop.call_soon_threadsafe, arrived.set)
            self._controller.messages.call_on_arrival(wake)
            try:
                if (got := self.receive(0, source)) is not None:
                    return got
                left = None if deadline is None else deadline - loop.time()
                await asyncio.wait_for(arrived.wait(), left)
            except TimeoutError:
                return None
            finally:
                self._controller.messages.cancel_call(wake)

    # Ending

    def kill_all(self) -> None:
        """End all tasks: waiting tasks are cancelled, running tasks are killed.

        Returns at once. Raises `UnsupportedByEngine` if some run in agents themselves, after ending
        the others.
        """
        self._check()
        self._pump.call(self._controller.kill_and_cancel.kill_all)

    def clear_local_storage(self, timeout: float | None = None) -> dict[str, int]:
        """Empty the local storage of every host; returns host names → freed bytes.

        Files that running tasks use stay. Blocks. Raises TimeoutError, or `ClusterError` if a host
        failed to do it.
        """
        timeout = patience(timeout)
        self._check()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._housekeeping("refresh", deadline, each=True)
        return {
            host: int(freed) for host, freed in self._housekeeping("clear", deadline, each=False)
        }

    def _housekeeping(
        self, what: str, deadline: float | None, *, each: bool
    ) -> list[tuple[str, str]]:
        """Ask agents for `Housekeeping`; returns the hosts and their answers. Blocks."""
        controller = self._controller
        tickets = self._pump.call(lambda: controller.agents.begin_housekeeping(what, each=each))
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._pump.until(lambda: controller.agents.all_done(tickets), left):
            raise NotInTime("a host has not cleared its local storage", left or 0.0)
        answers = []
        for ticket, host in tickets.items():
            done = controller.agents.housekeeping.pop(ticket)
            if done is None or not done[1]:
                why = "the cluster was closed" if done is None else done[2]
                raise EngineFailed(self._engine.name, f"{host} was not cleared: {why}")
            answers.append((host, done[2]))
        return answers

    async def aclear_local_storage(self, timeout: float | None = None) -> dict[str, int]:
        """`clear_local_storage` for coroutines."""
        import asyncio

        return await asyncio.to_thread(self.clear_local_storage, timeout)

    def close(self, cancel: bool = False) -> None:
        """Wait for all tasks, or kill them (``cancel``), and release the hosts.

        Blocks. Messages in the queue are lost.
        """
        self._life.close(cancel=cancel)
        self._shortcut = None

    async def aclose(self, cancel: bool = False) -> None:
        """`close` for coroutines."""
        import asyncio

        await asyncio.to_thread(self.close, cancel)

    def _check(self) -> None:
        self._controller.check_open()

    def __del__(self) -> None:
        life = self.__dict__.get("_life")  # None if an option was wrong
        if life is not None and life.drop():
            warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose(cancel=kind is not None)

    def __reduce__(self) -> str:
        raise TypeError("a Cluster cannot be pickled: it belongs to the program that created it")

    def _repr_html_(self) -> str:
        """Hosts, slots and running tasks, for notebooks."""
        if self._life.closed:
            return box(heading(f"Cluster {self._engine.name!r}", "closed"))
        heads, rows, words = rows_of(self.hosts(), self._controller.scheduler, self.tasks())
        return box(heading(f"Cluster {self._engine.name!r}", words), markup_table(heads, rows))

    def __repr__(self) -> str:
        hosts = counted(len(self.hosts()), "host")
        state = "closed" if self._life.closed else f"{counted(self.slots, 'slot')} on {hosts}"
        return f"<Cluster {self._engine.name!r}: {state}>"


def port_of(cluster: Cluster) -> ClusterPort:
    """What layers above the cluster may do with it beyond its public interface."""
    return cluster._port


def _tuple(args: object) -> tuple[Any, ...]:
    if isinstance(args, str | bytes) or not isinstance(args, Iterable):
        raise TypeError(f"give a tuple of arguments for each task, not {args!r}")
    return tuple(args)


def _forked() -> None:
    """The shortcut belongs to the parent process, not to this forked one."""
    for cluster in list(_ALL):
        cluster._shortcut = None


os.register_at_fork(after_in_child=_forked)

"""The part that PyOPUS's virtual machines share on a cluster: spawn, send, receive, end.

Subclasses define the ids and the facts about hosts.
"""

# ruff: noqa: N802, N803
from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from types import FunctionType
from typing import Any, ClassVar

from encamp.cluster.events import HostAdded, HostDeleted, TaskExit, TaskResult
from encamp.compat.pyopus.base import (
    HostID,
    MsgHostAdd,
    MsgHostDelete,
    MsgTaskExit,
    MsgTaskResult,
    PyOpusError,
    TaskID,
    VirtualMachine,
)
from encamp.compat.pyopus.mailbox import HERE, Finish, Finished, Mailbox, has_sender, with_sender
from encamp.compat.pyopus.spawner import Spawner, opened
from encamp.errors import ClusterClosed, ClusterError, EngineFailed
from encamp.number_checks import as_number, as_whole
from encamp.slot.current_task import CurrentTask, current_task, slot_here
from encamp.storage.local_leftovers import reclaim_leftovers
from encamp.wire.protocol import Received

__all__ = ["ClusteredMachine", "Here", "run_task", "task_here"]


class Here:
    """The task that runs in a slot, the place in its id, and the virtual machine it belongs to."""

    def __init__(self, place: int, task: CurrentTask, vm: Any) -> None:
        self.place, self.task, self.vm = place, task, vm

    @property
    def mail(self) -> Mailbox:
        """The task's mailbox, made when it is first used; threads of the task share it."""
        known = vars(self)
        if "_mail" not in known:  # another thread may also create it
            known.setdefault("_mail", Mailbox(partial(_fetch_in_task, self.vm, self.task)))
        found: Mailbox = known["_mail"]
        return found


running: dict[int, Here] = {}
"""The tasks that run in this process, by their numbers."""


def task_here() -> Here | None:
    """The calling task, even in threads that it has started; None in the spawner.

    If tasks run in the spawner's process, threads that they start count as the spawner's.
    """
    if not running:  # the spawner's case, quickly: it calls this often
        return None
    slot = slot_here()
    if slot is not None and (here := running.get(slot[1])) is not None:
        return here
    others = [here for here in running.values() if not here.task.in_program]
    return others[0] if len(others) == 1 else None


def no_task() -> None:
    """Raise `PyOpusError` in a task."""
    if task_here() is not None:
        raise PyOpusError("this task is not the spawner; only the spawner knows hosts and slots")


class ClusteredMachine(VirtualMachine):
    """Tasks in the slots of a cluster. An id has the task's number and a *place*.

    The place is the slot (MPI) or the host's id (PVM).
    """

    subsystem: ClassVar[str]
    task_type: ClassVar[type[TaskID]]
    host_type: ClassVar[type[HostID]]

    # What subclasses define

    @staticmethod
    @abstractmethod
    def _spawner() -> Spawner:
        """The cluster's hosts and slots. Raises `PyOpusError` in tasks."""

    @classmethod
    @abstractmethod
    def _id(cls, place: int | None, number: int) -> TaskID:
        """A task's id: invalid if ``place`` is None, the spawner's if ``number`` is 0."""

    @classmethod
    @abstractmethod
    def _number(cls, task: Any) -> int:
        """A task's number."""

    @classmethod
    @abstractmethod
    def _host(cls, name: str) -> HostID:
        """A host's id by the cluster's name for it."""

    @classmethod
    @abstractmethod
    def _names(cls, hosts: Sequence[Any]) -> list[str]:
        """The cluster's names of hosts."""

    @classmethod
    @abstractmethod
    def _place(cls, slot: int) -> int:
        """The place of tasks in a slot, for their ids."""

    @classmethod
    @abstractmethod
    def _spawners_place(cls) -> int:
        """The place of the spawner, for its id."""

    @classmethod
    def _hosts_changed(cls) -> None:
        """Handle a host that has joined or left."""

    def _options(self) -> dict[str, Any]:
        """Options of `Cluster.spawn`."""
        return {}

    # The common part

    def setWorkerDebug(self, debug: int = 0) -> None:
        """Set the debug level for tasks that are spawned from now on."""
        self.debug = debug

    def spawnFunction(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        count: int | None = None,
        targetList: Sequence[Any] | None = None,
        sendBack: bool = True,
    ) -> list[Any]:
        """See `VirtualMachine.spawnFunction`; hosts with most free slots get tasks first."""
        spawner = self._spawner()
        _check_call(function, count)
        names = None if targetList is None else self._names(self._checked_hosts(targetList))
        task, first = _as_task(function)
        call = (*first, tuple(args), dict(kwargs or {}))
        spawned: list[Any] = []
        while count is None or len(spawned) < count:
            with spawner.taken(names) as slot:
                if slot is None:
                    break
                place = self._place(slot)
                number = spawner.run(slot, task, self, place, *call, **self._options())
            if number is not None:
                spawner.ids[number] = self._id(place, number)
                spawner.titles[number] = str(getattr(function, "__qualname__", ""))
                spawned.append(spawner.ids[number])
                if not sendBack:
                    spawner.silent.add(number)
        return spawned

    def checkForIncoming(self, fromDestination: Any = None) -> bool:
        """See `VirtualMachine.checkForIncoming`."""
        return self._mail().holds(fromDestination)

    def receiveMessage(
        self, timeout: float = -1.0, fromDestination: Any = None
    ) -> tuple[Any, ...] | None:
        """See `VirtualMachine.receiveMessage`.

        Raises `ClusterError` if the whole cluster has ended, so that waiting again is useless.
        """
        wait = checked_timeout(timeout)
        return self._received(self._mail().get, wait, fromDestination)

    def messageHere(self) -> tuple[Any, ...] | None:
        """See `VirtualMachine.messageHere`."""
        spawner = opened()
        if not running and spawner is not None and spawner.nothing_here:
            return ()
        return self._received(self._mail().here)

    def _received(self, take: Callable[..., tuple[Any, ...]], *how: Any) -> tuple[Any, ...] | None:
        """The next message in the mailbox; None if it cannot be unpickled."""
        try:
            received = take(*how)
        except (ClusterError, PyOpusError):
            raise
        except Exception as exc:  # noqa: BLE001 - whatever unpickling it raises
            what = f"a message cannot be read: {type(exc).__name__}: {exc}"
            self._debug(self.subsystem, what)
            return None
        if received and isinstance(received[1], MsgTaskExit) and task_here() is None:
            self._exited(received[0])
        return received

    def _exited(self, task: Any) -> None:
        """The message of a task's exit was received."""
        self._spawner().ended(self._number(task))
        if self.debug:
            self._debug(self.subsystem, f"task {task} has ended")

    def _mail(self) -> Mailbox:
        here = task_here()
        if here is not None:
            return here.mail
        spawner = opened() or self._spawner()
        if spawner.mail is None:
            spawner.mail = Mailbox(partial(self._fetch, spawner))
        return spawner.mail

    def sendMessage(self, destination: Any, message: Any) -> bool:
        """See `VirtualMachine.sendMessage`. Messages to ended tasks are dropped."""
        if not self._checked_task(destination).valid():
            return False
        here, to = task_here(), self._number(destination)
        try:
            if here is not None:
                here.task.send(to, with_sender(here.place, message))
            else:
                spawner = opened() or self._spawner()
                spawner.send(to, with_sender(self._spawners_place(), message))
        except ClusterError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever pickling it raises
            what = f"a message cannot be sent: {type(exc).__name__}: {exc}"
            self._debug(self.subsystem, what)
            return False
        return True

    def errorIsRaised(self, task: Any) -> None:
        """See `VirtualMachine.errorIsRaised`."""
        self._spawner().raised.add(self._number(task))

    def clearLocalStorage(self, timeout: float = -1.0) -> None:
        """See `VirtualMachine.clearLocalStorage`."""
        wait, cluster = checked_timeout(timeout), self._spawner().cluster
        reclaim_leftovers()
        if cluster is None:
            return
        try:
            freed = cluster.clear_local_storage(wait)
        except TimeoutError:
            self._debug("VM", f"local storage is not cleared after {timeout:g} s")
            return
        for host, count in freed.items():
            self._debug("VM", f"local storage on {host} is cleared, {count} bytes were freed")

    def _checked_task(self, task: Any) -> TaskID:
        if not isinstance(task, self.task_type):
            raise PyOpusError(f"a task's id is a {self.task_type.__name__}, not {task!r}")
        return task

    def _checked_hosts(self, hosts: Any) -> list[Any]:
        kind = self.host_type
        if isinstance(hosts, kind) or not hasattr(hosts, "__iter__"):
            raise PyOpusError(f"targetList must be a list of hosts' ids, not {hosts!r}")
        found = list(hosts)
        for host in found:
            if not isinstance(host, kind):
                raise PyOpusError(f"a host's id is a {kind.__name__}, not {host!r}")
        return found

    # Messages and events that arrive

    def _fetch(self, spawner: Spawner, wait: float | None) -> tuple[Any, ...] | None:
        if spawner.cluster is None or spawner.port is None:
            _wait_for_nothing(0 if wait == HERE else wait)
            return None
        try:
            if wait == HERE:
                received = spawner.port.take_message()
            else:
                received = spawner.cluster.receive(wait)
        except EngineFailed:
            received = spawner.cluster.receive(0)  # the losses with it are reported first
            if received is None:
                raise
        return None if received is None else self._translated(spawner, received)

    def _translated(self, spawner: Spawner, received: Received) -> tuple[Any, ...]:
        """A cluster's message or event in PyOPUS's form; ``()`` if PyOPUS has none for it."""
        number, message = received.source, received.message
        if has_sender(message):
            return spawner.ids.get(number) or self._id(message[1], number), message[2]
        if isinstance(message, HostAdded | HostDeleted):
            return self._event_message(spawner, message)
        sender = spawner.ids.get(number)
        if isinstance(message, TaskResult):
            return () if sender is None else _result(spawner, sender, message)
        if isinstance(message, TaskExit):
            return () if sender is None else (sender, MsgTaskExit(sender))
        return sender or self._id(None, number), message

    def _event_message(self, spawner: Spawner, event: HostAdded | HostDeleted) -> tuple[Any, ...]:
        """PyOPUS's message for a host that has joined or left."""
        name, nobody = event.host.name, self.task_type.bad()
        if isinstance(event, HostAdded):
            if not spawner.add(event.host):
                return ()
            self._hosts_changed()
            return nobody, MsgHostAdd([self._host(name)])
        spawner.remove(name)
        self._hosts_changed()
        return nobody, MsgHostDelete(self._host(name))


def _check_call(function: object, count: object) -> None:
    if not callable(function):
        raise PyOpusError(f"only a callable can be spawned, not {function!r}")
    number = as_whole(count)
    if count is not None and (number is None or number < 0):
        raise PyOpusError(f"count must be None or an integer, 0 or more, not {count!r}")


def checked_timeout(timeout: Any) -> float | None:
    """Seconds to wait, None for forever, from PyOPUS's notation."""
    if type(timeout) is float and timeout < 0:  # the usual case, quickly
        return None
    seconds = as_number(timeout)
    if seconds is None or math.isnan(seconds):
        raise PyOpusError(f"timeout must be a number of seconds, not {timeout!r}")
    return None if seconds < 0 or seconds == math.inf else seconds


def _as_task(function: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function that a slot runs, and its arguments after the machine and the place.

    A function becomes part of the slot's function, which a cluster pickles once. Other callables
    have state, and are sent as an argument each time.
    """
    if isinstance(function, FunctionType):
        return _task_of(function), ()
    return run_task, (function,)


@lru_cache(maxsize=16)
def _task_of(function: FunctionType) -> Callable[..., Any]:
    def task(
        vm: ClusteredMachine, place: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return run_task(vm, place, function, args, kwargs)

    task.__qualname__ = f"<{function.__qualname__}>"
    return task


def run_task(
    vm: ClusteredMachine,
    place: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run a task's function in a slot, with its folder and its mailbox."""
    me = current_task()
    running[me.id] = Here(place, me, vm)
    if vm.debug:
        vm._debug(f"{vm.subsystem}WORKER", f"task {vm.taskID()} begins on {me.host}")
    try:
        if vm.mirrorList is None and vm._startup is None:
            return function(*args, **kwargs)  # the slot restores its current folder
        with vm.environment():
            return function(*args, **kwargs)
    except Finished:
        return None
    finally:
        if vm.debug:
            vm._debug(f"{vm.subsystem}WORKER", f"task {vm.taskID()} ends on {me.host}")
        del running[me.id]


def _fetch_in_task(
    vm: ClusteredMachine, me: CurrentTask, wait: float | None
) -> tuple[Any, ...] | None:
    received = me.receive(wait)
    if received is None:
        return None
    number, what = received.source, received.message
    if not has_sender(what):  # from a program without PyOPUS's interface
        return vm._id(0 if number == 0 else None, number), what
    _, place, message = what
    if isinstance(message, Finish):
        raise Finished
    return vm._id(place, number), message


def _wait_for_nothing(wait: float | None) -> None:
    if wait is None:
        raise ClusterClosed("the virtual machine")
    time.sleep(wait)


def _result(spawner: Spawner, sender: Any, result: TaskResult) -> tuple[Any, ...]:
    silent = result.task in spawner.silent
    spawner.silent.discard(result.task)
    error = spawner.error_of(result.task, None if result.ok else result.value)
    if silent or (error is None and not result.ok):
        return ()
    value = result.value if result.ok else None
    return sender, MsgTaskResult(result.ok, value, error)

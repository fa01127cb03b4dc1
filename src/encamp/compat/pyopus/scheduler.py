"""The turns of the tasks of this process, and messages from remote tasks.

Tasks of this process are greenlets. Each call that a task makes may pass the turn to another; a
task that gets its answer queues behind those that were ready before it. Nothing here runs in a
greenlet itself, so a program with remote tasks only does not need greenlet.
"""

# ruff: noqa: N802, N815
from __future__ import annotations

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from encamp.compat.pyopus.base import (
    DebugLabel,
    MsgTaskExit,
    MsgTaskResult,
    PyOpusError,
    TaskID,
    VirtualMachine,
    say,
)
from encamp.errors import EngineUnavailable, extra_text

_LOOK_AGAIN = 0.001
"""Seconds between two checks of remote tasks, while tasks of this process are ready."""
MAIN = 1
"""Number of the task that is the program itself."""


class SysCall:
    """A task's call of the scheduler; other tasks may run before the answer."""


class Yield(SysCall):
    """Let the other tasks run."""


@dataclass(eq=False)
class Spawn(SysCall):
    """Start a task; the answer is its number.

    remote
        Run it in a slot, if there is a virtual machine with slots.
    targetHostID
        The host to run it on.
    block, enqueue
        If no slot is free: wait for one, or queue the task and continue; with neither the answer is
        -1.
    extendedReturnValue
        The answer is ``(number, remote task's id, its host's id)``. The ids are None for tasks of
        this process; a queued task has only the host's id, if a host was given.
    """

    func: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    remote: bool = False
    targetHostID: Any = None
    block: bool = True
    enqueue: bool = True
    extendedReturnValue: bool = False

    def value(self, task: Task) -> Any:
        """The answer for a started task."""
        ids = task.tid, task.remoteTaskID, task.remoteHostID
        return ids if self.extendedReturnValue else task.tid

    def refusal(self) -> Any:
        """The answer if no slot is free."""
        return (-1, None, None) if self.extendedReturnValue else -1


@dataclass(eq=False)
class Job(Spawn):
    """A `Spawn` of a job, which may run in any slot; see `VirtualMachine.roomForJobs`."""

    independent: bool = False


@dataclass(eq=False)
class Join(SysCall):
    """Collect a child task that has ended; the answer is ``{number: value}``.

    If several have ended, the oldest is collected. ``tidList`` names the children that count; an
    empty list means all. The answer is ``{}`` if there are no children, or if none has ended and
    ``block`` is False. The child's exception is raised.
    """

    tidList: Iterable[int] = ()
    block: bool = True

    def wants(self, tid: int) -> bool:
        """Whether the child ``tid`` counts."""
        return not self.tidList or tid in self.tidList

    def check(self, tasks: Mapping[int, Task], me: Task) -> None:
        """Raise `PyOpusError` if a number in ``tidList`` is not a child's."""
        self.tidList = frozenset(self.tidList)
        for tid in self.tidList:
            child = me.finishedChildren.get(tid) or tasks.get(tid)
            if child is None or child.ptid != me.tid:
                raise PyOpusError(f"task {tid} is not a child that task {me.tid} could join")

    def take(self, ended: dict[int, Task]) -> list[Task]:
        """Remove the children of the answer from those that have ended."""
        wanted = [tid for tid in ended if self.wants(tid)]
        return [ended.pop(min(wanted))] if wanted else []

    def value(self, *children: Task) -> dict[int, Any]:
        """The answer for collected children."""
        for child in children:
            if child.error is not None:
                raise child.error
        return {child.tid: child.retval for child in children}


class Collect(Join):
    """A `Join` of all ended tasks in ``tidList``; the answer is ``{number: task}``.

    It raises no exception.
    """

    tidList: Mapping[int, Any]

    def check(self, tasks: Mapping[int, Task], me: Task) -> None:
        """See `Join.check`; does nothing, because the caller has started the tasks."""

    def wants(self, tid: int) -> bool:
        """See `Join.wants`."""
        return tid in self.tidList

    def take(self, ended: dict[int, Task]) -> list[Task]:
        """See `Join.take`."""
        return [ended.pop(tid) for tid in sorted(ended) if self.wants(tid)]

    def value(self, *children: Task) -> dict[int, Any]:
        """See `Join.value`."""
        return {child.tid: child for child in children}


@dataclass(eq=False)
class Task:
    """A task of this process or a remote one. ``tid`` is its number, ``ptid`` its parent's."""

    tid: int
    ptid: int | None
    name: str
    greenlet: Any = None
    remoteTaskID: Any = None
    remoteHostID: Any = None
    nchildren: int = 0
    """Children that have not ended."""
    finishedChildren: dict[int, Task] = field(default_factory=dict)
    waitingOn: Join | None = None
    answer: Callable[[], Any] = lambda: None
    """Returns the answer to its call, or raises an exception."""
    retval: Any = None
    error: BaseException | None = None
    answered: bool = False
    """Whether the result of a remote task has arrived."""


@dataclass(eq=False)
class _Waiting:
    """A remote task in the queue for slots; ``task`` is None if it gets its number later."""

    call: Spawn
    caller: Task
    task: Task | None


class Scheduler:
    """Decides whose turn it is. For one thread."""

    def __init__(self, vm: VirtualMachine | None = None, debug: int = 0) -> None:
        self.debug = debug
        self._main = self.active = Task(MAIN, None, "_main")
        self.tasks = {MAIN: self._main}
        """Tasks that have not ended, by number."""
        self._last = MAIN
        self._ready: deque[Task] = deque()
        self._remote: dict[Any, Task] = {}
        self._queue: list[_Waiting] = []
        self._looked = 0.0
        """The time of the last check of remote tasks."""
        self.vm: VirtualMachine | None = None
        self.setVM(vm)
        DebugLabel.turn_of(MAIN)

    def setVM(self, vm: VirtualMachine | None) -> None:
        """Run remote tasks on ``vm``, unless this is a task of it, or it has no slots."""
        if self._remote or self._queue:
            raise PyOpusError("the virtual machine cannot be changed while remote tasks run")
        usable = vm is not None and not vm.parentTaskID().valid() and vm.slots() > 1
        self.vm = vm if usable else None

    def setDebug(self, debug: int = 0) -> None:
        """If above 0, debug messages are printed."""
        self.debug = debug

    @property
    def crowded(self) -> bool:
        """Whether a task waits for a slot."""
        return bool(self._queue)

    def countTasks(self) -> int:
        """The number of tasks that have not ended, including the program itself."""
        return len(self.tasks)

    def countRemoteTasks(self) -> int:
        """The number of remote tasks that have not ended."""
        return len(self._remote)

    def countLocalTasks(self) -> int:
        """The number of tasks of this process that have not ended."""
        return len(self.tasks) - len(self._remote)

    def call(self, call: SysCall) -> Any:
        """Answer a call of the active task; other tasks run in the meantime."""
        me = self.active
        if self.debug:
            self._say(f"task {me.tid} calls {type(call).__name__}")
        try:
            self._handle(call, me)
            following = self._next()
            if following is not me:
                following.greenlet.switch()
        except BaseException:
            self._forget_call(me)
            raise
        finally:
            self._activate(me)
        return me.answer()

    def _handle(self, call: SysCall, me: Task) -> None:
        if isinstance(call, Join):
            self._join(call, me)
        elif not isinstance(call, Spawn):
            self._reply(me, lambda: None)
        elif call.remote and self.vm is not None and self.vm.slots() > 1:
            self._spawn_remote(call, me, self.vm)
        else:
            self._spawn_here(call, me)

    def _reply(self, task: Task, answer: Callable[[], Any]) -> None:
        task.answer = answer
        self._ready.append(task)

    def _forget_call(self, task: Task) -> None:
        """Forget a task's call, which was interrupted and gets no answer."""
        task.waitingOn = None
        if task in self._ready:
            self._ready.remove(task)
        self._queue = [w for w in self._queue if w.task is not None or w.caller is not task]

    def _activate(self, task: Task) -> None:
        self.active = task
        DebugLabel.turn_of(task.tid)

    def _next(self) -> Task:
        """The task whose turn it is; waits for remote tasks if no task of this process is ready."""
        while self._took_message(wait=not self._ready):
            pass
        return self._ready.popleft()

    def _took_message(self, *, wait: bool) -> bool:
        if self.vm is not None and self._took_jobs(self.vm):
            return True
        if wait and not self._remote and not self._queue:
            raise PyOpusError("all tasks wait for each other")
        if self.vm is None:
            return False
        if not wait and time.monotonic() - self._looked < _LOOK_AGAIN:
            received = self.vm.messageHere()
        else:
            received = self.vm.messageOrJobs() if wait else self.vm.receiveMessage(0)
            self._looked = time.monotonic()
        if received:
            self._take(*received)
        return wait or received is None or bool(received)

    def _take(self, sender: Any, message: Any) -> None:
        if not isinstance(message, MsgTaskExit | MsgTaskResult):
            return
        task = self._remote.get(sender)
        if task is not None and isinstance(message, MsgTaskResult):
            task.retval, task.error, task.answered = message.returnValue, message.error, True
        elif task is not None:
            del self._remote[sender]
            if not task.answered:
                task.error = PyOpusError(f"task {sender} has ended, but no result arrived")
            self._end(task)
        if isinstance(message, MsgTaskExit):
            self._start_waiting()

    def _took_jobs(self, vm: VirtualMachine) -> bool:
        """Handle ended jobs; returns whether there were any."""
        ended = vm.endedJobs()
        for job, value, error, host in ended:
            if (task := self._remote.pop(job, None)) is not None:
                task.retval, task.error, task.remoteHostID = value, error, host
                self._end(task)
        if ended:
            self._start_waiting()
        return bool(ended)

    def start(self, call: Job) -> int | None:
        """Start a job for which there was room; no other task runs in the meantime.

        None if there is no room any more.
        """
        assert self.vm is not None  # noqa: S101 - there is no room without one
        started = self._spawned(call, self.vm)
        return None if started is None else self._begun(call, self.active, None, started).tid

    def take_back(self, tids: Iterable[int]) -> None:
        """Fail those of some jobs that have not started."""
        wanted = {*tids}
        jobs = [job for job, task in self._remote.items() if task.tid in wanted]
        if self.vm is not None and jobs:
            self.vm.takeBackJobs(jobs)

    def _say(self, text: str) -> None:
        if self.debug:
            say("COS", text)

    def _new(self, call: Spawn, parent: Task) -> Task:
        self._last += 1
        task = Task(self._last, parent.tid, str(call.func))
        self.tasks[task.tid] = task
        parent.nchildren += 1
        return task

    def _spawn_here(self, call: Spawn, caller: Task) -> None:
        library = _greenlets()
        if self._main.greenlet is None:
            self._main.greenlet = library.getcurrent()
        task = self._new(call, caller)
        body = partial(self._body, call, task, library)
        task.greenlet = library.greenlet(body, parent=self._main.greenlet)
        task.greenlet.gr_context = copy_context()
        self._ready.append(task)
        self._reply(caller, partial(call.value, task))

    def _body(self, call: Spawn, me: Task, library: Any, *_: object) -> None:
        """The code of a task of this process, from its first turn to its last.

        Greenlet passes it the value of the task whose end gave it its first turn.
        """
        self._activate(me)
        try:
            me.retval = call.func(*call.args, **call.kwargs)
        except library.GreenletExit:
            return  # the interpreter ends
        except Exception as exc:  # noqa: BLE001 - its parent gets it
            me.error = exc
        except BaseException as exc:  # noqa: BLE001 - Ctrl-C and exits are for the program
            self._interrupt(exc)
        self._end(me)
        library.getcurrent().parent = self._next().greenlet

    def _interrupt(self, exc: BaseException) -> None:
        """Raise an exception in the program itself, whatever it waits for."""

        def answer() -> None:
            raise exc

        self._forget_call(self._main)
        self._main.answer = answer
        self._ready.appendleft(self._main)

    def _spawn_remote(self, call: Spawn, caller: Task, vm: VirtualMachine) -> None:
        if call.targetHostID is not None and call.targetHostID not in vm.hosts():
            raise PyOpusError(f"there is no host {call.targetHostID} in the virtual machine")
        waiting = _Waiting(call, caller, None)
        if self._has_slot(call, vm):
            self._start(waiting, vm)
        elif call.block:
            self._queue.append(waiting)
        elif call.enqueue:
            task = waiting.task = self._new(call, caller)
            task.remoteHostID = call.targetHostID
            self._queue.append(waiting)
            self._reply(caller, partial(call.value, task))
        else:
            self._reply(caller, call.refusal)

    def _has_slot(self, call: Spawn, vm: VirtualMachine) -> bool:
        if isinstance(call, Job):  # jobs are not queued behind a task that waits for a slot
            return vm.roomForJobs(call.independent and not self._queue) > 0
        if call.targetHostID is None:
            return vm.freeSlots() > 0
        return call.targetHostID in vm.hostsWithFreeSlots()

    def _start(self, waiting: _Waiting, vm: VirtualMachine) -> None:
        """Spawn a task in a free slot, and answer its caller if that has not been done."""
        call, caller = waiting.call, waiting.caller
        task = self._begin(call, caller, waiting.task, vm)
        if waiting.task is None:
            self._reply(caller, partial(call.value, task))

    def _begin(self, call: Spawn, caller: Task, task: Task | None, vm: VirtualMachine) -> Task:
        started = self._spawned(call, vm)
        if started is None:  # the host has left
            raise PyOpusError("the slot was lost before the task could be spawned; try again")
        return self._begun(call, caller, task, started)

    def _begun(self, call: Spawn, caller: Task, task: Task | None, started: Any) -> Task:
        task = task or self._new(call, caller)
        if self.vm is not None and isinstance(started, TaskID):
            task.remoteTaskID, task.remoteHostID = started, self.vm.hostID(started)
        self._remote[started] = task
        return task

    def _spawned(self, call: Spawn, vm: VirtualMachine) -> Any:
        """Spawn a task; returns its id, None if there is no slot."""
        if isinstance(call, Job):
            return vm.startJob(call.func, call.args, call.kwargs)
        hosts = None if call.targetHostID is None else [call.targetHostID]
        for task in vm.spawnFunction(call.func, call.args, call.kwargs, count=1, targetList=hosts):
            vm.errorIsRaised(task)
            return task
        return None

    def _start_waiting(self) -> None:
        """Spawn queued tasks, the oldest first, as far as slots are free."""
        vm = self.vm
        for waiting in self._queue if vm is not None else ():
            if vm is not None and self._has_slot(waiting.call, vm):
                self._queue = [other for other in self._queue if other is not waiting]
                try:
                    self._start(waiting, vm)
                except Exception as exc:  # noqa: BLE001 - the caller's call raises it, or a join
                    self._fail(waiting, exc)

    def _fail(self, waiting: _Waiting, exc: Exception) -> None:
        if waiting.task is not None:
            waiting.task.error = exc
            self._end(waiting.task)
            return

        def answer() -> None:
            raise exc

        self._reply(waiting.caller, answer)

    def _join(self, call: Join, me: Task) -> None:
        call.check(self.tasks, me)
        if ended := call.take(me.finishedChildren):
            self._reply(me, partial(call.value, *ended))
        elif call.block and me.nchildren:
            me.waitingOn = call
        else:
            self._reply(me, dict)

    def _end(self, task: Task) -> None:
        """Answer the parent of an ended task, if it waits for that."""
        if self.debug:
            self._say(f"task {task.tid} has ended")
        del self.tasks[task.tid]
        self._report(task.finishedChildren.values())
        parent = self.tasks.get(task.ptid or 0)
        if parent is None:
            self._report([task])
            return
        parent.nchildren -= 1
        call = parent.waitingOn
        if call is not None and call.wants(task.tid):
            parent.waitingOn = None
            self._reply(parent, partial(call.value, task))
        else:
            parent.finishedChildren[task.tid] = task

    def _report(self, tasks: Iterable[Task]) -> None:
        """Print the errors of tasks that will not be joined."""
        for task in tasks:
            if task.error is not None:
                text = "".join(traceback.format_exception(task.error))
                where = "" if task.remoteHostID is None else f" on {task.remoteHostID.name}"
                sys.stderr.write(f"task {task.tid} ({task.name}){where} failed:\n{text}")

    def report_uncollected(self) -> None:
        """Print the errors of tasks that the program has not joined; once each."""
        for task in self.tasks.values():
            self._report(task.finishedChildren.values())
            task.finishedChildren = {n: t for n, t in task.finishedChildren.items() if not t.error}


def _greenlets() -> Any:
    try:
        return import_module("greenlet")
    except ImportError as exc:
        raise EngineUnavailable("cooperative", str(exc), extra_text("cooperative")) from exc

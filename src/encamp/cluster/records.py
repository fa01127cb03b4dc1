"""The controller's records of tasks, slots and hosts, and how the state of a task changes.

    WAITING ──sent──► SENT ──begins──► RUNNING ──left──► LEFT ──ended──► ENDED
       ▲                │                 │               │
       └────────────────┴── waits_again ──┴───────────────┘

A waiting task is in a queue of the scheduler. A sent task may wait at its slot behind others, and
be given back. A task that has left its slot either waits again or has ended, except that outputs
may still have to be published, or files of it to be rescued.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from encamp.cluster.sent_functions import Function
from encamp.cluster.spawn_options import CheckedOptions, Need
from encamp.cluster.task import Canceller, SpawnedTask, begins, waits_again
from encamp.errors import EncampError, TaskKilled, TaskLost, TimeLimitExceeded
from encamp.wire.frames import Parts


class State(Enum):
    """The state of a task."""

    WAITING = "waiting"
    SENT = "sent to a slot, and not known to have begun"
    RUNNING = "running"
    LEFT = "no longer at its slot"
    ENDED = "ended"


WAITING, SENT, RUNNING, LEFT, ENDED = State


class Cause(Enum):
    """Why a task was ended early."""

    KILLED = "killed"
    TIME = "its time limit has passed"
    OVERDUE = "a server that has not answered for too long"


class TaskRecord:
    """A task at the controller. ``future`` is the user's view of it."""

    __slots__ = (
        "arguments",
        "cause",
        "devices",
        "error",
        "function",
        "future",
        "id",
        "mark",
        "options",
        "pickled",
        "slot",
        "state",
        "unwanted",
    )

    def __init__(
        self,
        number: int,
        canceller: Canceller,
        function: Function,
        arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
        options: CheckedOptions,
    ) -> None:
        self.id = number
        self.future = SpawnedTask(number, options.name, function.timing, canceller)
        self.function = function
        self.arguments = arguments
        self.pickled: tuple[bytes, Parts] | None = None
        """The arguments as `Functions.pickled` returns them, if it was called at the spawn."""
        self.options = options
        self.state = WAITING
        self.slot: SlotRecord | None = None
        """The slot that it was sent to, until it leaves that."""
        self.devices: tuple[str, ...] = ()
        self.cause: Cause | None = None
        self.error: EncampError | None = None
        """Its error, while files of it are being rescued."""
        self.unwanted = False
        """Whether it is cancelled if its slot gives it back."""
        self.mark = (0, 0)
        """The task's progress when its process died, if it has recorded that."""

    @property
    def name(self) -> str:
        """The task's name in messages and errors."""
        return self.future.name

    @property
    def label(self) -> str:
        """The task's name in errors, which put "task" before it."""
        return self.options.name or str(self.id)

    # Its states

    def sent(self, slot: SlotRecord) -> None:
        """Record that the task was sent to a slot."""
        self.slot, self.state = slot, SENT

    def begins(self) -> None:
        """Record that the task is at the head of its slot's queue now."""
        slot = self.slot
        if self.state is SENT and slot is not None:
            self.state = RUNNING
            begins(self.future, slot.host.name, slot.number)

    def ran(self, slot: SlotRecord) -> None:
        """Record where the task ran, if its result is the first sign of its run."""
        self.future.host, self.future.slot = slot.host.name, slot.number

    def left(self) -> None:
        """Record that the task has left its slot."""
        if self.state is not ENDED:
            self.state = LEFT
        self.slot = None

    def waits_again(self) -> None:
        """Record that the task was given back without having started."""
        if self.state is not ENDED:
            self.state = WAITING
            waits_again(self.future)

    def ended(self) -> None:
        """Record that the task has ended, and release its memory."""
        self.state = ENDED
        self.arguments, self.pickled = ((), {}), None

    def by_value(self, function: Function) -> None:
        """Use a pickle by value of its function from now on."""
        self.function = function

    def uses(self, devices: Iterable[str]) -> None:
        """Record its GPUs."""
        self.devices = tuple(devices)

    def died(self, mark: tuple[int, int]) -> None:
        """Record how far it was when its process died."""
        self.mark = mark

    def awaits_rescue(self, error: EncampError) -> None:
        """Record that it ends with an error, but files of it are to be published before."""
        self.error = error

    def cancel_if_given_back(self, wanted: bool = True) -> None:
        """Record whether it is cancelled when its slot gives it back."""
        self.unwanted = wanted

    def end_soon(self, cause: Cause) -> None:
        """Record why it will be ended; the first cause counts."""
        if self.cause is None:
            self.cause = cause

    def why_ended(self, slot: SlotRecord, exit_code: int | None, why: str) -> EncampError:
        """The task's error if its slot was killed, or ended on its own."""
        if self.cause is Cause.KILLED:
            return TaskKilled(self.label, slot.host.name)
        if self.cause is Cause.TIME and self.options.time_limit is not None:
            return TimeLimitExceeded(self.label, None, self.options.time_limit)
        return TaskLost(self.label, slot.host.name, exit_code, why)


class SlotRecord:
    """A slot at the controller. ``tasks`` are the tasks sent there, the running one first.

    Only the scheduler changes ``tasks``, ``backlog`` and ``closed``.
    """

    __slots__ = (
        "agent",
        "backlog",
        "changes",
        "closed",
        "host",
        "known",
        "life",
        "number",
        "runs",
        "settings",
        "stopping",
        "tasks",
        "ticket",
    )

    def __init__(self, agent: int, number: int, host: HostRecord) -> None:
        self.agent, self.number, self.host = agent, number, host
        self.tasks: deque[TaskRecord] = deque()
        self.backlog = 0.0
        """Seconds that its calls will take."""
        self.known: set[int] = set()
        """Numbers of the functions that it has."""
        self.settings = b""
        """The program's settings that it has, see `SettingsSource`."""
        self.changes = 0
        """`RecentFunctions.changes` when ``known`` was last checked."""
        self.closed = False
        self.stopping = False
        """Whether its process was asked to end, and has not ended yet."""
        self.life = 0
        self.runs = 0
        """Messages with calls that were sent to it."""
        self.ticket = 0
        """The number of the last request to give back calls, until it is answered; 0: none."""

    # Its process

    def next_run(self) -> int:
        """Count a message with calls; returns how many there were."""
        self.runs += 1
        return self.runs

    def knows(self, functions: Iterable[int], settings: bytes) -> None:
        """Record the functions and settings that were sent to its process."""
        self.known.update(functions)
        self.settings = settings

    def forgets(self, functions: set[int]) -> None:
        """Record functions that its process was asked to drop."""
        self.known -= functions

    def recalled(self, ticket: int) -> None:
        """Record a request to give back calls."""
        self.ticket = ticket

    def answered(self, ticket: int) -> None:
        """Record the answer to a request, after which the agent does not end the process."""
        if ticket == self.ticket:
            self.ticket = 0
            self.stopping = False

    def stops(self) -> None:
        """Record that its process was asked to end."""
        self.stopping = True

    def restarted(self) -> None:
        """Record that its process has ended, and that another one takes its place."""
        self.life += 1
        self.known.clear()
        self.settings = b""
        self.ticket = 0
        self.stopping = False

    @property
    def key(self) -> tuple[int, int]:
        """The slot in a `Need`: its agent's number and its own."""
        return self.agent, self.number


class HostRecord:
    """A host at the scheduler."""

    def __init__(self, name: str, cores: int, memory: int, gpus: Iterable[str]) -> None:
        self.name, self.cores, self.memory = name, cores, memory
        self.gpus = list(gpus)
        self.all_gpus = len(self.gpus)
        self.slots: list[SlotRecord] = []
        self.free: dict[SlotRecord, None] = {}
        self.used_cores = 0
        self.used_memory = 0
        self.wide = 0
        """Running tasks that need more than one core."""
        self.reserved = False
        self.bucket = -1

    def room(self) -> int:
        """How many plain tasks can start here now."""
        if self.reserved:
            return 0
        cores = self.cores if self.wide else max(self.cores, len(self.slots))
        return max(0, min(len(self.free), cores - self.used_cores))

    def most(self, need: Need) -> int:
        """How many tasks with a need can run here at the same time if nothing else does."""
        wanted = (need.cores - 1 and need.cores, need.memory, need.gpus)
        there = (self.cores, self.memory, self.all_gpus)
        rooms = (has // one for has, one in zip(there, wanted, strict=True) if one)
        return min([len(self.slots), *rooms])

    def can(self, need: Need) -> bool:
        """Whether it could meet a need if it were idle."""
        wide = need.cores if need.cores > 1 else 0
        if need.slot is not None and self.only(need, self.slots) is None:
            return False
        return wide <= self.cores and need.memory <= self.memory and need.gpus <= self.all_gpus

    def fits(self, need: Need) -> bool:
        """Whether it can meet a need now."""
        return self.lacks_slots_only(need) and self._has_slots(need)

    def lacks_slots_only(self, need: Need) -> bool:
        """Whether only free slots and cores are missing to meet a need."""
        return self.used_memory + need.memory <= self.memory and need.gpus <= len(self.gpus)

    def _has_slots(self, need: Need) -> bool:
        if self.slot_for(need) is None:
            return False
        most = self.cores if need.cores > 1 or self.wide else max(self.cores, len(self.slots))
        return self.used_cores + need.cores <= most

    def slot_for(self, need: Need) -> SlotRecord | None:
        """A free slot for a need; None if there is none."""
        if need.slot is None:
            return next(iter(self.free), None)
        return self.only(need, self.free)

    @staticmethod
    def only(need: Need, slots: Iterable[SlotRecord]) -> SlotRecord | None:
        """The only slot that a need allows, if it is free here."""
        return next((slot for slot in slots if slot.key == need.slot), None)

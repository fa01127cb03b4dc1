"""What all virtual machines of the dialect share: ids, messages, paths, storage.

The names are those of PyOPUS.
"""

# ruff: noqa: N802, N803
from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from encamp import quota
from encamp.errors import EncampError, NoMatch, UnsafeTarget, UnusableInput
from encamp.storage.inputs.mirror import Mirror, find
from encamp.storage.roots import Portable, SharedPath, local, portable, to_abstract, to_actual
from encamp.storage.sandbox import sandbox

__all__ = [
    "HostID",
    "Msg",
    "MsgHostAdd",
    "MsgHostDelete",
    "MsgTaskExit",
    "MsgTaskResult",
    "TaskID",
    "VirtualMachine",
    "getNumberOfCores",
    "translateToAbstractPath",
    "translateToActualPath",
]


class PyOpusError(EncampError):
    """Something was asked of the virtual machine that it cannot do, or not here."""

    message: str

    def __str__(self) -> str:
        return self.message


class TaskID:
    """Which task; comparable, hashable, printable. This one is nobody's."""

    @staticmethod
    def bad() -> TaskID:
        """An id that belongs to no task."""
        return TaskID()

    def valid(self) -> bool:
        """Whether there can be a task of this id."""
        return False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "NOTASK"


class HostID:
    """Which host; comparable, hashable, printable. This one is nobody's."""

    @staticmethod
    def bad() -> HostID:
        """An id that belongs to no host."""
        return HostID()

    def valid(self) -> bool:
        """Whether there can be a host of this id."""
        return False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "NOHOST"


class Msg:
    """Base of the messages that the virtual machine itself sends."""


class MsgTaskExit(Msg):
    """A task has ended: ``taskID``. Comes after its result."""

    def __init__(self, taskID: TaskID) -> None:
        self.taskID = taskID


class MsgHostDelete(Msg):
    """A host has left: ``hostID``."""

    def __init__(self, hostID: HostID) -> None:
        self.hostID = hostID


class MsgHostAdd(Msg):
    """Hosts have joined: ``hostIDs``."""

    def __init__(self, hostIDs: list[HostID]) -> None:
        self.hostIDs = hostIDs


class MsgJobsEnded(Msg):
    """There is something for `VirtualMachine.endedJobs`."""


class MsgTaskResult(Msg):
    """What a function returned: ``success`` and ``returnValue``.

    If it raised, ``success`` is False, ``returnValue`` None, and ``error`` what it raised, with
    the remote traceback as its cause.
    """

    def __init__(self, success: bool, returnValue: Any, error: BaseException | None = None) -> None:
        self.success = success
        self.returnValue = returnValue
        self.error = error


class EndedJob(NamedTuple):
    """What has come of a job: its value or its error, and the host that it ran on."""

    job: Any
    value: Any
    error: BaseException | None
    host: Any


def getNumberOfCores() -> int:
    """The CPU cores of this host that this program may use."""
    return quota.cores()


def translateToAbstractPath(path: str) -> tuple[int, str]:
    """``path`` as (number of its shared root, rest), which means the same on every host.

    Raises `PyOpusError` if no folder of PARALLEL_MIRRORED_STORAGE holds it.
    """
    shared = to_abstract(path)
    if shared is None:
        raise PyOpusError(f"{path!r} is in no folder of PARALLEL_MIRRORED_STORAGE")
    return shared.root, shared.rest


def translateToActualPath(index: int, relPath: str) -> str:
    """Where on this host the path is that `translateToAbstractPath` gave elsewhere.

    ``relPath`` is relative even if it begins with a slash. Raises `PyOpusError` if this host has
    no shared root of that number.
    """
    if index < 0:
        raise PyOpusError(f"there is no shared root {index}")
    try:
        return str(to_actual(SharedPath(index, relPath.lstrip("/"))))
    except UnusableInput as exc:
        raise PyOpusError(str(exc)) from exc


class DebugLabel:
    """Where this code runs, as debug messages tell it."""

    microthread = 0

    @classmethod
    def turn_of(cls, number: int) -> None:
        """Note which task of this process runs, also for PyOPUS's own modules.

        Its simulators and evaluators name temporary files by `pyopus.misc.identify`.
        """
        cls.microthread = number
        if (identify := sys.modules.get("pyopus.misc.identify")) is not None:
            identify.tid = number  # type: ignore[attr-defined]

    @classmethod
    def label(cls) -> str:
        """Host, process and microthread, the latter two in hexadecimal."""
        return f"{socket.gethostname()}_{os.getpid():x}_{cls.microthread:x}"


def say(subsystem: str, text: str) -> None:
    """Print a debug message."""
    prefix = f"{DebugLabel.label()} {subsystem}: "
    sys.stdout.write("".join(f"{prefix}{line}\n" for line in text.split("\n")))
    sys.stdout.flush()


class VirtualMachine:
    """Hosts that work in parallel, seen from the spawner and from the tasks that it spawns.

    debug
        Above 0, what happens is printed.
    startupDir
        Folder that tasks start in; with a mirrorMap, a folder inside the local storage.
    translateStartupDir
        Whether startupDir goes by PARALLEL_MIRRORED_STORAGE, as mirrored files do.
    mirrorMap
        ``{path or glob on the spawner: folder in the local storage}``; None mirrors nothing.
        A glob that matches nothing raises `NoMatch` here, a target outside `UnsafeTarget`.
    persistentStorage
        Whether a slot's next task finds the folder as the last one left it, with nothing mirrored
        again. It goes with the process that made it, so no later run finds it.
    """

    vm_counter: ClassVar[int] = 0

    def __init__(
        self,
        debug: int = 0,
        startupDir: str | None = None,
        translateStartupDir: bool = True,
        mirrorMap: Mapping[str, str] | None = None,
        persistentStorage: bool = False,
    ) -> None:
        self.debug = debug
        self.vmIndex = VirtualMachine.vm_counter
        VirtualMachine.vm_counter += 1
        self.setSpawn(startupDir, translateStartupDir, mirrorMap, persistentStorage)

    def setSpawn(
        self,
        startupDir: str | None = None,
        translateStartupDir: bool = True,
        mirrorMap: Mapping[str, str] | None = None,
        persistentStorage: bool = False,
    ) -> None:
        """Change what the constructor was told, for what is spawned from now on."""
        self.persistentStorage = persistentStorage
        self.mirrorList = None if mirrorMap is None else [*map(_mirrored, mirrorMap.items())]
        self._startup: Portable | None = startupDir
        if startupDir is not None and translateStartupDir and mirrorMap is None:
            self._startup = portable(startupDir)
        for source, target in self.mirrorList or ():
            self._debug("VM", f"{source} will be mirrored to {target!r} in the local storage")

    def _debug(self, subsystem: str, text: str, level: int = 1) -> None:
        if self.debug >= level:
            say(subsystem, text)

    @staticmethod
    def slots() -> int:
        """How many tasks there can be at a time, the spawner among them."""
        return 0

    @staticmethod
    def freeSlots() -> int:
        """How many more tasks can be spawned now."""
        return 0

    @staticmethod
    def freeSlotsSet() -> set[int]:
        """The numbers of the free slots."""
        return set()

    @staticmethod
    def hostsWithFreeSlots() -> set[Any]:
        """The ids of hosts that have a free slot."""
        return set()

    @staticmethod
    def hosts() -> list[Any]:
        """The ids of all hosts."""
        return []

    @staticmethod
    def taskID() -> Any:
        """The id of the task that asks."""

    @staticmethod
    def hostID(task: Any = None) -> Any:
        """The id of the host that ``task`` is on; of the asking task's by default."""

    @staticmethod
    def parentTaskID() -> Any:
        """The id of the task that spawned the one that asks; a bad one for the spawner."""

    @staticmethod
    def formatSpawnerConfig() -> str:
        """Hosts, slots and tasks as text. Only on the spawner."""
        return ""

    def spawnFunction(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        count: int | None = None,
        targetList: Sequence[Any] | None = None,
        sendBack: bool = True,
    ) -> list[Any]:
        """Run a function in ``count`` free slots (None: in all) of ``targetList``'s hosts.

        Returns the ids of the tasks, fewer than ``count`` where slots are short. Does not wait.
        With ``sendBack`` each task's result comes as a `MsgTaskResult`.
        """
        raise NotImplementedError

    def checkForIncoming(self, fromDestination: Any = None) -> bool:
        """Whether a message (of that task) is there."""
        raise NotImplementedError

    def receiveMessage(self, timeout: float = -1.0, fromDestination: Any = None) -> Any:
        """The next message (of that task) as ``(sender, message)``.

        Waits ``timeout`` seconds: without end if negative, not at all if 0. Returns ``()`` if none
        came, None if one came that cannot be read here.
        """
        raise NotImplementedError

    def messageHere(self) -> Any:
        """As `receiveMessage` of 0 seconds, but only what has come when that was last called."""
        return self.receiveMessage(0)

    def sendMessage(self, destination: Any, message: Any) -> bool:
        """Send a task an object; False if that failed. Does not wait until it is received."""
        raise NotImplementedError

    def errorIsRaised(self, task: Any) -> None:
        """Do not print what this task raises: whoever joins it gets to know."""

    # Jobs: tasks of a dispatch, which nobody knows by an id

    def roomForJobs(self, independent: bool) -> int:
        """How many more jobs can be started now.

        One for each free slot; if they are ``independent`` of each other's results, and short,
        more may wait at the slots.
        """
        return self.freeSlots()

    def startJob(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run a function in some slot; what stands for it in `endedJobs`, or is its task's id.

        None if the slot was lost just now.
        """
        for task in self.spawnFunction(function, args, kwargs, count=1):
            self.errorIsRaised(task)
            return task
        return None

    def endedJobs(self) -> Sequence[EndedJob]:
        """The jobs that have ended since the last call, but for those that are told as tasks."""
        return ()

    def takeBackJobs(self, jobs: Sequence[Any]) -> None:
        """End with an error those of ``jobs`` that have not begun. Blocks for a moment."""

    def clearLocalStorage(self, timeout: float = -1.0) -> None:
        """Remove on every host what tasks left in the local storage; waits that many seconds.

        What belongs to somebody who is alive stays.
        """
        raise NotImplementedError

    @staticmethod
    def finalize() -> None:
        """End the parallel program: tasks that wait for messages end, others are waited for."""

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Around a spawned function: its current folder, with what is to be mirrored in it."""
        if self.mirrorList is None:
            with _inside(None if self._startup is None else local(self._startup)):
                yield
            return
        name = self._folder_name()
        mirrors = [_below(name, source, target) for source, target in self.mirrorList]
        label = f"vm{self.vmIndex:x}"
        with sandbox(mirrors, name=label, persistent=self.persistentStorage) as folder:
            storage = folder / name
            storage.mkdir(parents=True, exist_ok=True)
            self._debug("VM", f"local storage is {storage}")
            with _inside(storage / str(self._startup or ".")):
                yield

    def _folder_name(self) -> str:
        """As PyOPUS calls a task's local storage."""
        return f"pyopus-{getpass.getuser()}/{os.getpid():x}_vm{self.vmIndex:x}"


def _mirrored(entry: tuple[str, str]) -> tuple[Portable, str]:
    """One line of a mirror map in the form that every host understands."""
    source, target = entry
    if PurePosixPath(target).is_absolute():
        raise UnsafeTarget(target, "is absolute")
    if not find(source, Path.cwd()):
        raise NoMatch(source, str(Path.cwd()))
    return portable(Path.cwd() / os.path.expanduser(source)), target


def _below(folder: str, source: Portable, target: str) -> Mirror:
    return Mirror(str(local(source)), f"{folder}/{target}")


@contextmanager
def _inside(folder: Path | None) -> Iterator[None]:
    before = os.getcwd()  # noqa: PTH109 - tasks may be short, and paths take long to make
    if folder is not None:
        os.chdir(folder)
    try:
        yield
    finally:
        if not _is_current(before):
            os.chdir(before)


def _is_current(folder: str) -> bool:
    try:
        return os.getcwd() == folder  # noqa: PTH109
    except OSError:  # it was removed
        return False

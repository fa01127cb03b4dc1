"""The part that all of PyOPUS's virtual machines share: ids, messages, paths, storage.

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

from encamp import cores_and_memory
from encamp.errors import EncampError, NoMatch, UnsafeTarget, UnusableInput
from encamp.storage.inputs.mirror import Mirror, find
from encamp.storage.sandbox import sandbox
from encamp.storage.shared_folders import (
    Portable,
    SharedPath,
    local,
    portable,
    to_abstract,
    to_actual,
)

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
    """The virtual machine cannot do what was asked, or cannot do it in this process."""

    message: str

    def __str__(self) -> str:
        return self.message


class _NoID:
    """An id that belongs to nothing: comparable, hashable, printable."""

    _text = ""

    def valid(self) -> bool:
        """Whether something can have this id."""
        return False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return self._text


class TaskID(_NoID):
    """The id of a task: comparable, hashable, printable. No task has the base class as its id."""

    _text = "NOTASK"

    @staticmethod
    def bad() -> TaskID:
        """An id that belongs to no task."""
        return TaskID()


class HostID(_NoID):
    """The id of a host: comparable, hashable, printable. No host has the base class as its id."""

    _text = "NOHOST"

    @staticmethod
    def bad() -> HostID:
        """An id that belongs to no host."""
        return HostID()


class Msg:
    """Base of the messages that the virtual machine itself sends."""


class MsgTaskExit(Msg):
    """The task ``taskID`` has ended. Arrives after its result."""

    def __init__(self, taskID: TaskID) -> None:
        self.taskID = taskID


class MsgHostDelete(Msg):
    """The host ``hostID`` has left."""

    def __init__(self, hostID: HostID) -> None:
        self.hostID = hostID


class MsgHostAdd(Msg):
    """The hosts ``hostIDs`` have joined."""

    def __init__(self, hostIDs: list[HostID]) -> None:
        self.hostIDs = hostIDs


class MsgTaskResult(Msg):
    """The result of a function: ``success`` and ``returnValue``.

    If it raised an exception, ``success`` is False, ``returnValue`` is None, and ``error`` is the
    exception, with the remote traceback as its cause.
    """

    def __init__(self, success: bool, returnValue: Any, error: BaseException | None = None) -> None:
        self.success = success
        self.returnValue = returnValue
        self.error = error


class EndedJob(NamedTuple):
    """An ended job: its value or its error, and the host that it ran on."""

    job: Any
    value: Any
    error: BaseException | None
    host: Any


def getNumberOfCores() -> int:
    """The CPU cores of this host that this program may use."""
    return cores_and_memory.cores()


def translateToAbstractPath(path: str) -> tuple[int, str]:
    """``path`` in a form for all hosts: number of its shared root, and the rest.

    Raises `PyOpusError` if it is in no folder of PARALLEL_MIRRORED_STORAGE.
    """
    shared = to_abstract(path)
    if shared is None:
        raise PyOpusError(f"{path!r} is in no folder of PARALLEL_MIRRORED_STORAGE")
    return shared.root, shared.rest


def translateToActualPath(index: int, relPath: str) -> str:
    """The path on this host for a result of `translateToAbstractPath` on any host.

    ``relPath`` is relative even if it begins with a slash. Raises `PyOpusError` if this host has
    no shared root with that number.
    """
    if index < 0:
        raise PyOpusError(f"there is no shared root {index}")
    try:
        return str(to_actual(SharedPath(index, relPath.lstrip("/"))))
    except UnusableInput as exc:
        raise PyOpusError(str(exc)) from exc


class DebugLabel:
    """The label of debug messages: where this code runs."""

    microthread = 0

    @classmethod
    def turn_of(cls, number: int) -> None:
        """Record which task of this process runs, for PyOPUS's own modules, too.

        Its simulators and evaluators use `pyopus.misc.identify` in names of temporary files.
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
        If above 0, debug messages are printed.
    startupDir
        Folder that tasks start in; with a mirrorMap, a folder inside the local storage.
    translateStartupDir
        Whether startupDir is translated by PARALLEL_MIRRORED_STORAGE, as mirrored files are.
    mirrorMap
        ``{path or glob on the spawner: folder in the local storage}``; None mirrors nothing.
        A glob that matches nothing raises `NoMatch`, a target outside raises `UnsafeTarget`.
    persistentStorage
        Whether a slot's next task finds the folder as the last one left it, and nothing is mirrored
        again. The folder is removed with the process that created it, so no later run finds it.
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
        """Change options of the constructor, for tasks that are spawned from now on."""
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
        """The number of slots, including the spawner's."""
        return 0

    @staticmethod
    def freeSlots() -> int:
        """The number of free slots, which is how many tasks can be spawned now."""
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
        """The id of the calling task."""

    @staticmethod
    def hostID(task: Any = None) -> Any:
        """The id of the host of a task, by default of the calling one."""

    @staticmethod
    def parentTaskID() -> Any:
        """The id of the task that spawned the calling one; an invalid id in the spawner."""

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

        Returns the ids of the tasks, fewer than ``count`` if there are not enough slots. Does not
        wait. With ``sendBack`` each task's result arrives as a `MsgTaskResult`.
        """
        raise NotImplementedError

    def checkForIncoming(self, fromDestination: Any = None) -> bool:
        """Whether a message (of that task) has arrived."""
        raise NotImplementedError

    def receiveMessage(self, timeout: float = -1.0, fromDestination: Any = None) -> Any:
        """The next message (of that task) as ``(sender, message)``.

        Waits ``timeout`` seconds: forever if negative, not at all if 0. Returns ``()`` if none has
        arrived, None if one has arrived that cannot be unpickled.
        """
        raise NotImplementedError

    def messageHere(self) -> Any:
        """`receiveMessage` for messages that had arrived when it was last called; never waits."""
        return self.receiveMessage(0)

    def messageOrJobs(self) -> Any:
        """`receiveMessage` without end, or ``()`` once a job has ended or a message has arrived."""
        return self.receiveMessage()

    def sendMessage(self, destination: Any, message: Any) -> bool:
        """Send an object to a task; False if that failed. Does not wait for the receiver."""
        raise NotImplementedError

    def errorIsRaised(self, task: Any) -> None:
        """Do not print the error of a task, which is raised where the task is joined."""

    # Jobs: tasks of a dispatch, whose ids are not needed

    def roomForJobs(self, independent: bool) -> int:
        """How many more jobs can be started now: one for each free slot.

        More short jobs can wait at the slots if they are ``independent`` of each other's results.
        """
        return self.freeSlots()

    def startJob(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run a function in any slot; returns its handle in `endedJobs`, or its task's id.

        None if the slot was just lost.
        """
        for task in self.spawnFunction(function, args, kwargs, count=1):
            self.errorIsRaised(task)
            return task
        return None

    def endedJobs(self) -> Sequence[EndedJob]:
        """The jobs that have ended since the last call, except those that are reported as tasks."""
        return ()

    def takeBackJobs(self, jobs: Sequence[Any]) -> None:
        """Fail those of ``jobs`` that have not started. Blocks for a moment."""

    def clearLocalStorage(self, timeout: float = -1.0) -> None:
        """Remove what dead processes left in the local storage of every host.

        Waits this many seconds for the hosts. Folders of living processes stay.
        """
        raise NotImplementedError

    @staticmethod
    def finalize() -> None:
        """End the parallel program: tasks that wait for messages end; waits for the others."""

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Run a block in the current folder of a spawned function, with its mirrored files."""
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
        """PyOPUS's name for a task's local storage."""
        return f"pyopus-{getpass.getuser()}/{os.getpid():x}_vm{self.vmIndex:x}"


def _mirrored(entry: tuple[str, str]) -> tuple[Portable, str]:
    """An entry of a mirror map in a form for all hosts."""
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

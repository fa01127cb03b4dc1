"""Every error that encamp raises, in one tree.

    EncampError
    ├── InputError                 unusable input from the user; the command exits with 2
    │   ├── NoMatch                a pattern that matches nothing
    │   ├── UnusableInput          an input that is missing, unreadable, or neither file nor folder
    │   ├── UnsafeTarget           a target outside of the sandbox
    │   ├── TargetConflict         two inputs with one target in the sandbox
    │   ├── OutputConflict         two outputs for one destination
    │   ├── OutputExists           an output that exists already and may not be replaced
    │   ├── BadDestination         a destination that cannot be written
    │   ├── BadLocalStorage        a local storage root that cannot be used
    │   ├── NotOurs                a file or folder of a job that another user may have put there
    │   ├── BadJob                 a job with wrong names, dependencies or values
    │   │   ├── WrongType          a value of the wrong type
    │   │   └── NotCallable        a value that should be a function and is not
    │   ├── UnknownOption          an option that does not exist
    │   ├── BadJobFile             a job file that breaks the schema, with line and column
    │   ├── CannotTravel           a callable or argument that cannot be pickled
    │   ├── OtherPython            a function of a script on a host with another Python version
    │   ├── JobBusy                another process is running this job
    │   ├── EngineUnavailable      an engine that is unknown or not installed
    │   ├── UnsupportedByEngine    a request that this engine does not support
    │   ├── BadHostfile            a hostfile that cannot be used
    │   ├── WrongLength            the number of values is not that of servers
    │   ├── NoSuchHost             a host that is not in the cluster
    │   ├── NoSuchConsole          a server that none of the user's programs here has
    │   ├── SeveralConsoles        a server name that several programs have
    │   └── NotEnough              a need that no host can meet
    ├── StorageError               a disk operation failed
    │   ├── DiskFull               a full disk; says how much is needed and free
    │   ├── ShippingFailed         a file did not arrive whole on a host without the share
    │   ├── CannotRemove           folders that could not be removed
    │   ├── ModeRefused            a requested mode of mirroring is not available
    │   └── SourceChanged          an input changed while it was copied
    ├── TaskError                  a task failed; other tasks continue
    │   ├── StepFailed             a step raised an exception, or its command failed
    │   ├── CommandNotFound        a step's command is not on the host's PATH
    │   ├── MissingOutput          a declared output was not made
    │   ├── UnusableOutput         an output that cannot be published (FIFO, broken symlink)
    │   ├── BadValues              values that cannot be a row of the job's table
    │   ├── InputDamaged           the task wrote to an input that it shares with others
    │   ├── InputLost              an input vanished from the host's disk while the task ran
    │   ├── TimeLimitExceeded      a task or step ran longer than it may
    │   ├── TaskKilled             the task was killed on request
    │   └── TaskLost               the process that ran the task died
    ├── ServiceError               a service or one of its servers failed
    │   ├── ServerLost             a server died; says whether the call had started
    │   ├── ServiceEnded           the service was terminated
    │   ├── ServiceFailed          no server of the service can start or stay alive
    │   ├── ProxyReleased          a call on a proxy that was released
    │   ├── CircularCall           a call that would wait for itself
    │   └── GroupBroken            a message to or from a member that has ended
    ├── ClusterError               a cluster as a whole failed
    │   ├── ClusterClosed          it is closed, or closing
    │   ├── EngineFailed           the engine could not start or broke down
    │   ├── NoPython               this process knows no interpreter for slots
    │   ├── SlotsCannotStart       the processes of a host's slots end while they start
    │   ├── TooFewFiles            this process may not open enough files
    │   ├── InitializerFailed      an executor's initializer raised; its calls cannot run
    │   └── BadFrame               bytes from the network that are not a message of encamp
    ├── HostsNotReached            a command failed on some hosts
    ├── NotInTime                  a wait timed out; what it waited for continues
    ├── NotInstalled               an optional library that is not installed
    ├── JobFailed                  some tasks of a job failed (in `encamp.reports`, with its report)
    └── OutOfTime                  a job stopped before its allocation ends; run it again

Errors take facts, and build their sentence when it is read.
All of them can be pickled.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from inspect import Parameter, Signature
from pickle import PicklingError
from typing import Any, ClassVar, Self, dataclass_transform

from encamp.exit_codes import ending_text
from encamp.units import size_text


def _rebuild(cls: type[EncampError], facts: dict[str, Any]) -> EncampError:
    error = cls.__new__(cls)
    error.__dict__.update(facts)
    return error


def _signature(cls: type[EncampError], facts: tuple[str, ...]) -> Signature:
    """The facts as parameters; facts with a value in the class are optional."""
    empty, kind = Parameter.empty, Parameter.POSITIONAL_OR_KEYWORD
    return Signature([Parameter(name, kind, default=getattr(cls, name, empty)) for name in facts])


@dataclass_transform(eq_default=False)
class EncampError(Exception):
    """Root of the tree; catch it to catch everything that encamp raises on purpose.

    Subclasses declare their facts like dataclasses. They are not real dataclasses, because
    compiling the methods of so many classes would slow down each start of a slot.
    """

    _facts: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._facts = tuple(dict.fromkeys((*cls._facts, *cls.__annotations__)))

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values)
        if self._facts:
            given = _signature(type(self), self._facts).bind(*values, **named)
            given.apply_defaults()
            self.__dict__.update(given.arguments)

    def with_facts(self, **facts: Any) -> Self:
        """A copy of this error with some facts replaced."""
        return type(self)(**{name: getattr(self, name) for name in self._facts} | facts)

    def __repr__(self) -> str:
        if not self._facts:
            return super().__repr__()
        facts = (f"{name}={getattr(self, name, None)!r}" for name in self._facts)
        return f"{type(self).__qualname__}({', '.join(facts)})"

    def __reduce__(self) -> tuple[Callable[..., EncampError], tuple[Any, ...]]:
        return _rebuild, (type(self), dict(self.__dict__))

    def _render_traceback_(self) -> list[str]:
        """For notebooks: where it was raised in the user's own code, and its sentence."""
        from encamp.short_tracebacks import brief_trace

        return brief_trace(self, type(self).__name__, shown(self._in_notebook()))

    def _in_notebook(self) -> str:
        """The text that a notebook shows."""
        return str(self)


def printable(path: object) -> str:
    """A path for a message, with undecodable bytes and control characters escaped."""
    text = str(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def shown(text: str) -> str:
    """Untrusted text of several lines, for a terminal.

    Line endings and tabs stay; all other control characters are escaped.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    undecodable = 0xDC80 <= ord(char) <= 0xDCFF  # a byte b is kept as the surrogate U+DC00 + b
    return f"\\x{ord(char) - 0xDC00:02x}" if undecodable else ascii(char)[1:-1]


_LONGEST = 1000
"""Characters of a value that a message shows; a longer value would hide the message."""
LONGEST_STEP = 250


def shortened(text: str, most: int = _LONGEST) -> str:
    """A value for a message, without the middle if it is long."""
    if len(text) <= most:
        return text
    head, tail = most * 2 // 3, most // 3
    return f"{text[:head]} … {len(text) - head - tail} characters … {text[-tail:]}"


class Stopped(BaseException):
    """Raised in the running function when the supervisor asks the slot to stop (SIGTERM)."""


def name_of(exc: BaseException) -> str:
    """The name of an exception's class."""
    return str(vars(type)["__name__"].__get__(type(exc)))


def words_of(exc: BaseException) -> str:
    """The type and message of an exception; never empty, whatever the exception's code does."""
    said = _said(exc)
    return f"{name_of(exc)}: {said}" if said else name_of(exc)


def reason(exc: BaseException) -> str:
    """`words_of`, without the middle if they are long."""
    return shortened(words_of(exc))


def text_of(exc: BaseException) -> str:
    """The message of an exception, never very long; its type if it has no message."""
    return shortened(_said(exc), 4 * _LONGEST) or name_of(exc)


def reason_of(exc: BaseException, task: str) -> str:
    """The message of an exception, for a place that names the task anyway."""
    return text_of(exc).removeprefix(f"task {printable(task)}: ")


def _said(exc: BaseException) -> str:
    try:
        return shown("".join(str(exc)).strip())
    except Stopped:
        raise
    except BaseException as other:  # noqa: BLE001 - its own code may raise anything
        return f"(no message: str() raised {name_of(other)})"


class InputError(EncampError):
    """The user's input cannot be used; nothing was run and nothing was published."""


class NoMatch(InputError):
    """``required_anyway``: the input cannot be optional, so the message does not suggest it.

    ``task`` is the task whose input it is; empty if that is not known, or for a job input. ``but``
    explains why existing matches do not count.
    """

    pattern: str
    folder: str
    required_anyway: bool = False
    task: str = ""
    but: str = ""

    def __str__(self) -> str:
        pattern, way_out, whose = printable(self.pattern), "", _whose(self.task)
        if not self.required_anyway:
            way_out = ", or mark the input as not required"
        if not any(c in self.pattern for c in "*?["):
            where = "" if self.pattern[:1] in ("/", "~") else f" in {printable(self.folder)}"
            return f"{whose}there is no {pattern!r}{where}; check its name and folder{way_out}"
        where = printable(self.folder) + (f": {self.but}" if self.but else "")
        return f"{whose}no file matches {pattern!r} in {where}; check the pattern{way_out}"


def _whose(task: str) -> str:
    return f"task {printable(task)}: " if task else ""


class UnusableInput(InputError):
    """``task`` as for `NoMatch`."""

    path: str
    why: str
    task: str = ""

    def __str__(self) -> str:
        return f"{_whose(self.task)}cannot use the input {printable(self.path)}: {self.why}"


class UnsafeTarget(InputError):
    target: str
    why: str

    def __str__(self) -> str:
        return (
            f"the target {printable(self.target)!r} {self.why}; "
            "give a path inside the task's folder, like 'data' or '.'"
        )


class TargetConflict(InputError):
    """``task`` as for `NoMatch`."""

    target: str
    first: str
    second: str
    task: str = ""

    def __str__(self) -> str:
        return (
            f"{_whose(self.task)}{printable(self.first)} and {printable(self.second)} "
            f"would both become {printable(self.target)!r} in the task's folder; "
            "rename one or give it another folder"
        )


class OutputConflict(InputError):
    destination: str
    first: str
    second: str

    def __str__(self) -> str:
        return (
            f"{printable(self.first)} and {printable(self.second)} would both be published as "
            f"{printable(self.destination)}; rename one or give it another folder"
        )


class OutputExists(InputError):
    path: str

    def __str__(self) -> str:
        return (
            f"{printable(self.path)} exists already; remove it, or set the "
            "output's option existing to 'replace' or 'keep'"
        )


class BadDestination(InputError):
    path: str
    why: str

    def __str__(self) -> str:
        return f"cannot publish to {printable(self.path)}: {self.why}; name another folder"


class BadLocalStorage(InputError):
    path: str
    why: str

    def __str__(self) -> str:
        return (
            f"cannot use the local storage {printable(self.path)}: {self.why}; "
            "set PARALLEL_LOCAL_STORAGE to a folder of your own on this host's disk"
        )


class NotOurs(InputError):
    path: str
    why: str

    def __str__(self) -> str:
        return f"cannot use {printable(self.path)}: {self.why}"


class BadJob(InputError, ValueError):
    """Also a ValueError, as standard pools raise for such values."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{shortened(printable(self.what))}: {shortened(self.why)}"


class WrongType(BadJob, TypeError):
    """Also a TypeError, as Python raises for a value of the wrong type."""


class NotCallable(BadJob, TypeError):
    """Also a TypeError, as Python raises for a call of something that is not a function.

    ``use`` shows the right way to write it.
    """

    use: str = "call(f, x), not call(f(x))"

    def __str__(self) -> str:
        return (
            f"{printable(self.what)}: {self.why}; give the function and its arguments: {self.use}"
        )


class UnknownOption(InputError, TypeError):
    """Also a TypeError, as Python raises for unknown keyword arguments."""

    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        from difflib import get_close_matches  # which takes long to load in every slot

        close = get_close_matches(self.name, self.known, 1)
        guess = f"did you mean {close[0]!r}? The options are" if close else "the options are"
        return f"there is no option {self.name!r}; {guess} {', '.join(self.known)}"


class BadJobFile(InputError):
    """``line`` and ``column`` count from 1; 0 stands for the file as a whole."""

    file: str
    line: int
    column: int
    why: str

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{printable(self.file)}{place}: {self.why}"


class CannotTravel(InputError, PicklingError):
    """``what`` is an argument, a function, a message or a result. Also what `pickle` raises."""

    what: str
    why: str
    remedy: str = "open files, locks and connections inside the function instead of outside it"

    def __str__(self) -> str:
        what, why = shortened(self.what), shortened(self.why)
        return f"{what} cannot be sent to another process: {why}; {self.remedy}"


class OtherPython(InputError):
    """Functions that cannot be imported are sent as bytecode, which depends on the version."""

    theirs: str
    ours: str

    def __str__(self) -> str:
        return (
            f"a function of a script or notebook that runs in {self.theirs} cannot run in "
            f"{self.ours}: use one version of Python on all hosts, or import the function from a "
            "module that all of them have"
        )


class JobBusy(InputError):
    folder: str
    owner: str

    def __str__(self) -> str:
        return (
            f"the job in {printable(self.folder)} is being run by {self.owner}; "
            "wait for it to end, or stop it first"
        )


def extra_text(extra: str) -> str:
    """The remedy for a missing extra of encamp, however encamp was installed."""
    return f"install encamp with its extra {extra!r} (in a clone: pip install '.[{extra}]')"


class EngineUnavailable(InputError):
    engine: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"the engine {printable(self.engine)!r} cannot be used: {self.why}; {self.remedy}"


class UnsupportedByEngine(InputError):
    engine: str
    what: str
    remedy: str = "use another engine for it"

    def __str__(self) -> str:
        return f"the engine {self.engine!r} cannot {self.what}; {self.remedy}"


class BadHostfile(InputError):
    file: str
    why: str

    def __str__(self) -> str:
        return f"the hostfile {printable(self.file)} cannot be used: {self.why}"


class HostsNotReached(EncampError):
    """Host names → why the command failed there."""

    why: dict[str, str]

    def __str__(self) -> str:
        each = [f"{printable(host)}: {printable(why)}" for host, why in self.why.items()]
        return f"failed on {len(each)} host{'s' * (len(each) != 1)}: {'; '.join(each)}"


class WrongLength(InputError, ValueError):
    """Also a ValueError. ``what`` names the values; each server gets one."""

    what: str
    given: int
    servers: int

    def __str__(self) -> str:
        return f"{self.given} {self.what} for {self.servers} servers; give one for each"


class NoSuchHost(InputError):
    host: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        known = ", ".join(map(printable, self.known)) or "none"
        return f"there is no host {printable(self.host)!r} in the cluster; its hosts are: {known}"


class NoSuchConsole(InputError):
    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        there = f"there are {', '.join(map(printable, self.known))}"
        if not self.known:
            there = "your programs on this host have none"
        return f"there is no server {printable(self.name)!r} on this host; {there}"


class SeveralConsoles(InputError):
    name: str
    programs: tuple[int, ...]

    def __str__(self) -> str:
        pids = ", ".join(map(str, self.programs))
        return (
            f"several programs have a server {printable(self.name)!r}; "
            f"add --program with one of {pids}"
        )


MEMORY = "of memory"
_ONE = {"cores": "core", "GPUs": "GPU", "hosts": "host"}


class NotEnough(InputError):
    """``need`` and ``most`` in units of ``what``: cores, `MEMORY` in bytes, GPUs, servers.

    ``together`` if ``most`` is the sum over all hosts, and not what the largest host has.
    """

    what: str
    need: int
    most: int
    together: bool = False

    def __str__(self) -> str:
        need, most, what = str(self.need), str(self.most), self.what
        if what == MEMORY:
            need, most = size_text(self.need), size_text(self.most)
        if need == "1":
            what = _ONE.get(what, what)
        if self.together:
            has = f"there are no more than {most}" if self.most else "there are none"
        else:
            has = f"no host has more than {most}" if self.most else "no host has any"
        are = "is" if self.need == 1 or what == MEMORY else "are"
        return f"{need} {what} {are} needed, but {has}; ask for less, or add a host"


class RandomNumbersRepeat(UserWarning):
    """Several tasks get copies of one random number generator in the same state."""

    def __init__(self, function: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(function, names)
        self.function, self.names = function, names

    def __str__(self) -> str:
        named = "".join(f" {name!r}" for name in self.names[:1])
        return (
            f"each task of {printable(self.function)} gets a copy of the random number generator"
            f"{named}, and all draw the same numbers; create one in the function, from a seed that "
            "is an argument: one of numpy.random.SeedSequence(1).spawn(n) for each task"
        )


class StorageError(EncampError):
    """A disk operation failed; other tasks are not affected."""


_LITTLE = 1 << 20
"""Bytes that a file system keeps for itself, or that others have just freed."""


class DiskFull(StorageError):
    """``need`` and ``free`` are bytes; ``host`` is where the disk is full."""

    path: str
    need: int
    free: int
    host: str = ""

    def __init__(self, path: str, need: int, free: int, host: str = "") -> None:
        super().__init__(path, need, free, host or socket.gethostname())

    def __str__(self) -> str:
        disk = f"the disk of {printable(self.path)} on the host {self.host}"
        if self.free > self.need + _LITTLE:
            why = "it has no free inodes, or a quota is exhausted (check df -i and quota)"
            return f"{disk} is full: {why}; remove some files, or use another disk"
        return (
            f"{disk} is full: {size_text(self.need)} are needed, "
            f"{size_text(self.free)} are free; free some space, or use another disk"
        )


class CannotRemove(StorageError):
    """``left`` says for each folder why it cannot be removed."""

    left: dict[str, str]

    def __str__(self) -> str:
        return "\n".join(
            f"cannot remove {printable(path)}: {why}" for path, why in self.left.items()
        )


class ModeRefused(StorageError):
    mode: str
    path: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.path} cannot be mirrored in the mode {self.mode!r}: {self.why}; "
            "use the mode 'auto' for the best one available"
        )


class ShippingFailed(StorageError):
    path: str
    why: str

    def __str__(self) -> str:
        return f"{printable(self.path)} could not be sent to this host: {self.why}; try again"


class SourceChanged(StorageError):
    path: str

    def __str__(self) -> str:
        return (
            f"{printable(self.path)} changed while it was copied; run again when it no "
            "longer changes"
        )


class TaskError(EncampError):
    """A task failed. ``task`` is its name."""

    task: str


class StepFailed(TaskError):
    """``exit_code`` is None for a Python step; ``cause`` says what the step raised."""

    step: str
    exit_code: int | None
    cause: str
    log_tail: str = ""

    def __str__(self) -> str:
        step = shortened(printable(self.step), 2 * LONGEST_STEP)
        return f"task {printable(self.task)}: step {step!r} {self.cause}"


class CommandNotFound(TaskError):
    command: str
    host: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)}: no command {shortened(printable(self.command))!r} "
            f"on {self.host}; "
            "install it there, give its full path, or mirror it into the task's folder"
        )


class MissingOutput(TaskError):
    """``unchanged`` are inputs that match, but that the task has not changed."""

    pattern: str
    made: tuple[str, ...]
    unchanged: tuple[str, ...] = ()

    def __str__(self) -> str:
        made = ", ".join(printable(name) for name in self.made) or "no new file"
        start, pattern = f"task {printable(self.task)}: ", repr(printable(self.pattern))
        if not self.unchanged:
            return (
                f"{start}nothing in its folder matches the output {pattern}; the task made {made}"
            )
        left = ", ".join(printable(name) for name in self.unchanged)
        only = "matches only inputs that the task did not change"
        return (
            f"{start}the output {pattern} {only} ({left}); "
            f"to publish one, name it without a wildcard; the task made {made}"
        )


class UnusableOutput(TaskError):
    path: str
    why: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)}: its output {printable(self.path)} cannot be "
            f"published: {self.why}"
        )


class BadValues(TaskError, ValueError):
    why: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)}: {shortened(self.why)}; a task's value must be a "
            "number, a string, true, false or null (None in Python), or a mapping of names to these"
        )


class NotInTime(EncampError, TimeoutError):
    """Also a TimeoutError. ``what`` has not happened within ``seconds``; ``why`` may be empty."""

    what: str
    seconds: float
    why: str = ""

    def __str__(self) -> str:
        why = f"; {printable(self.why)}" if self.why else ""
        return f"{printable(self.what)} within {self.seconds:g} s{why}"


class NotInstalled(EncampError, ImportError):
    """An optional library is missing. Also an ImportError."""

    library: str
    instead: str

    def __str__(self) -> str:
        return f"{self.library} is not installed; pip install {self.library}, or {self.instead}"


class InputDamaged(TaskError):
    path: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)} wrote to {printable(self.path)}, an input that it shares "
            "with other tasks; copy the file before changing it, or mirror it with the mode 'copy'"
        )


class InputLost(TaskError):
    path: str
    storage: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)}: its input {printable(self.path)} was damaged or "
            "removed while it ran, so its outputs were not published; exclude "
            f"{printable(self.storage)} from cleaners of temporary files"
        )


class TimeLimitExceeded(TaskError):
    """``limit`` is in seconds; ``step`` is None if it was the limit of the whole task."""

    step: str | None
    limit: float

    def __str__(self) -> str:
        step = shortened(printable(self.step), 2 * LONGEST_STEP)
        what = "" if self.step is None else f": step {step!r}"
        return f"task {printable(self.task)}{what} ran longer than its limit of {self.limit:g} s"


class TaskKilled(TaskError):
    host: str

    def __str__(self) -> str:
        return f"task {printable(self.task)} was killed on {self.host}"


class TaskLost(TaskError, BrokenExecutor):
    """``exit_code`` as `subprocess` gives it: negative for a signal, None if unknown.

    Also a `BrokenExecutor`, as standard pools raise, though here all other tasks continue.
    """

    host: str
    exit_code: int | None
    why: str = ""

    def __str__(self) -> str:
        end = "disappeared" if self.exit_code is None else ending_text(self.exit_code)
        why = f" ({self.why})" if self.why else ""
        return f"task {printable(self.task)} was lost: its process on {self.host} {end}{why}"


class ServiceError(EncampError):
    """A service, or one of its servers, failed."""


class ServerLost(ServiceError, BrokenExecutor):
    """``begun`` says whether the call had started when the server died; None if unknown.

    A call that had not started can be repeated; one that had may have had its effect. ``lost`` is
    the number of answered calls that are missing from the state of the server's successor.
    ``limit`` is the service's ``call_limit``, if the server was killed because it did not answer
    within it.
    """

    service: str
    call: str
    host: str
    begun: bool | None
    exit_code: int | None = None
    why: str = ""
    lost: int = 0
    limit: float | None = None

    def __str__(self) -> str:
        end = "disappeared" if self.exit_code is None else ending_text(self.exit_code)
        if self.limit is not None:
            end = f"did not answer within its call_limit of {self.limit:g} s and was killed"
        why = f" ({self.why})" if self.why else ""
        begun = {True: "had begun", False: "had not begun", None: "may have begun"}[self.begun]
        return (
            f"a server of {printable(self.service)} was lost: its process on "
            f"{self.host or 'its host'} {end}{why}; the call of {printable(self.call)} {begun}; "
            "acquire another server"
        )


class ServiceEnded(ServiceError):
    service: str

    def __str__(self) -> str:
        return f"the service {printable(self.service)} was terminated; publish it again"


class ServiceFailed(ServiceError, BrokenExecutor):
    """``why`` says what happened to its servers; the cause is the last server's error."""

    service: str
    why: str

    def __str__(self) -> str:
        return f"the service {printable(self.service)} has no servers left: {self.why}"


class ProxyReleased(ServiceError, RuntimeError):
    service: str

    def __str__(self) -> str:
        return f"this proxy of {printable(self.service)} was released; acquire another one"


class CircularCall(ServiceError, RuntimeError):
    """The caller would wait for ``what``, whose server waits for the caller."""

    what: str

    def __str__(self) -> str:
        return (
            f"waiting for {printable(self.what)} would never end: its server waits, directly "
            "or through others, for this call; let one of the two return first"
        )


class GroupBroken(ServiceError):
    service: str

    def __str__(self) -> str:
        return f"a member of this group of {printable(self.service)} has ended; acquire a new group"


class ClusterError(EncampError):
    """A cluster as a whole failed."""


class ClusterClosed(ClusterError, RuntimeError):
    """Also a RuntimeError, as every executor raises after its shutdown."""

    what: str = "the cluster"

    def __str__(self) -> str:
        return f"{self.what} is closed; make a new one"


class EngineFailed(ClusterError):
    engine: str
    why: str

    def __str__(self) -> str:
        return f"the engine {self.engine!r} failed: {self.why}"


class NoPython(ClusterError):
    why: str

    def __str__(self) -> str:
        return (
            f"cannot start Python for slots: {self.why}; name an interpreter with "
            "multiprocessing.set_executable() or, in a frozen program, call "
            "encamp.freeze_support() before anything else"
        )


class SlotsCannotStart(ClusterError):
    """``words`` are the last output of one of them, or an error of the system."""

    host: str
    tries: int
    words: str

    def __str__(self) -> str:
        words = self.words or "it printed nothing"
        times = "once" if self.tries == 1 else f"{self.tries} times in a row"
        return f"a slot cannot start on {self.host}, tried {times}: {printable(words)}"


class TooFewFiles(ClusterError):
    slots: int
    need: int
    limit: int

    def __str__(self) -> str:
        slots = f"{self.slots} slot{'s' * (self.slots != 1)}"
        return (
            f"{slots} need {self.need} open files, but this process may have only {self.limit}; "
            f"raise the limit (ulimit -n {max(256, 2 * self.need)}), or use fewer slots"
        )


class InitializerFailed(ClusterError, BrokenExecutor):
    """Also a BrokenExecutor, as the standard pools raise. ``why`` says what was raised."""

    initializer: str
    host: str
    why: str

    def __str__(self) -> str:
        return (
            f"the initializer {printable(self.initializer)} failed on {self.host}: {self.why}; "
            "fix the initializer and make a new executor"
        )


class BadFrame(ClusterError):
    why: str

    def __str__(self) -> str:
        return f"refused a message: {self.why}"


class OutOfTime(EncampError):
    """The allocation of the batch job ``allocation`` ends at ``end``, as `time.time` counts.

    Finished tasks are published; ``waiting`` is a task that was not started, because it may take
    ``needed`` seconds. The command exits with 75; run it again in another allocation to continue.
    """

    allocation: str
    end: float
    done: int
    tasks: int
    waiting: str | None = None
    needed: float | None = None

    def __str__(self) -> str:
        end = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.end))
        text = (
            f"stopped with {self.done} of {self.tasks} tasks done, because the allocation of "
            "Slurm's "
            f"job {printable(self.allocation)} ends at {end}"
        )
        if self.waiting is not None and self.needed:
            text += f" and task {printable(self.waiting)} may take {self.needed:.0f} s"
        return f"{text}; run again to continue"

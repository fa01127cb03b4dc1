"""Every error that encamp raises, in one tree.

    EncampError
    ├── InputError                 unusable input from the user; the command exits with 2
    │   ├── NoMatch                a pattern that matches nothing
    │   ├── UnusableInput          an input that is missing, unreadable, or neither file nor folder
    │   ├── UnsafeTarget           an input whose target is outside the task's folder
    │   ├── TargetConflict         two inputs with one path in the task's folder
    │   ├── OutputConflict         two outputs that would be the same published file
    │   ├── OutputExists           an output that exists already and may not be replaced
    │   ├── BadDestination         a destination that cannot be written, or not safely
    │   ├── BadLocalStorage        a folder for local storage that cannot be used
    │   ├── NotOurs                a job's file or folder that another user might have put there
    │   ├── BadJob                 a job with names, dependencies or values that are not allowed
    │   │   ├── WrongType          a value of the wrong type
    │   │   └── NotCallable        a value that should be a function and is not
    │   ├── UnknownOption          an option that does not exist
    │   ├── BadJobFile             a job file that is not valid, with line and column
    │   ├── CannotTravel           a function, argument or result that cannot be pickled
    │   ├── OtherPython            a script's function on a host with a different Python version
    │   ├── JobBusy                a job that is being run already
    │   ├── EngineUnavailable      an engine that is unknown, not installed or not usable
    │   ├── UnsupportedByEngine    a request that this engine does not support
    │   ├── BadHostfile            a hostfile that cannot be used
    │   ├── WrongLength            more or fewer values than servers
    │   ├── NoSuchHost             a host that is not in the cluster
    │   ├── NoSuchConsole          a server's name that no program of this user has here
    │   ├── SeveralConsoles        a server's name that several programs have
    │   └── NotEnough              more cores, memory, GPUs or servers than there are
    ├── StorageError               a disk operation failed
    │   ├── DiskFull               no room on a disk, with the bytes needed and free
    │   ├── ShippingFailed         a file did not arrive intact on the other host
    │   ├── CannotRemove           folders that could not be removed
    │   ├── ModeRefused            a requested mirror mode is not possible
    │   └── SourceChanged          an input changed while it was copied
    ├── TaskError                  a task failed; other tasks continue
    │   ├── StepFailed             a step raised an exception, or its command failed
    │   ├── CommandNotFound        a step's command is not on the host's PATH
    │   ├── MissingOutput          a declared output was not made
    │   ├── UnusableOutput         an output cannot be published (FIFO, broken symlink)
    │   ├── BadValues              a task's values cannot be a row of the job's table
    │   ├── InputDamaged           the task wrote to an input that it shares with others
    │   ├── InputLost              an input vanished from the host's disk while the task ran
    │   ├── TimeLimitExceeded      a task or step ran longer than it may
    │   ├── TaskKilled             the task was killed on request
    │   └── TaskLost               the process that ran the task died
    ├── ServiceError               a service or one of its servers failed
    │   ├── ServerLost             a server died, with whether the call had started
    │   ├── ServiceEnded           the service was terminated
    │   ├── ServiceFailed          no server of the service can start or stay alive
    │   ├── ProxyReleased          a call on a proxy that was released
    │   ├── CircularCall           servers would wait for each other forever
    │   └── GroupBroken            a member of a group has ended
    ├── ClusterError               a cluster as a whole failed
    │   ├── ClusterClosed          it was used after it was closed
    │   ├── EngineFailed           the engine could not start or broke down
    │   ├── NoPython               this process does not know the interpreter for slots
    │   ├── SlotsCannotStart       the processes of a host's slots end while they start
    │   ├── TooFewFiles            this process cannot open enough files
    │   ├── InitializerFailed      an executor's initializer raised; its calls cannot run
    │   └── BadFrame               bytes from the network that are not a message of encamp
    ├── HostsNotReached            a command failed on some hosts
    ├── NotInTime                  a wait timed out; what was awaited continues
    ├── NotInstalled               an optional library that is not installed
    ├── JobFailed                  some tasks of a job failed; has the run's report
    └── OutOfTime                  a job stopped before its allocation ends; run it again

Each error has its facts as attributes, and ``str(error)`` builds the message from them.
All errors can be pickled. `JobFailed` is in `encamp.reports`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from inspect import Parameter, Signature
from pickle import PicklingError
from typing import Any, ClassVar, Self, dataclass_transform

from encamp.process_endings import ending_text
from encamp.units import size_text


def _rebuild(cls: type[EncampError], facts: dict[str, Any]) -> EncampError:
    error = cls.__new__(cls)
    error.__dict__.update(facts)
    return error


def _signature(cls: type[EncampError], facts: tuple[str, ...]) -> Signature:
    """The facts as parameters; facts with a default value in the class are optional."""
    empty, kind = Parameter.empty, Parameter.POSITIONAL_OR_KEYWORD
    return Signature([Parameter(name, kind, default=getattr(cls, name, empty)) for name in facts])


@dataclass_transform(eq_default=False)
class EncampError(Exception):
    """The base class of all errors of encamp. Catch it to catch them all."""

    # Subclasses declare their facts like dataclasses. They are not real dataclasses, because
    # compiling the methods of so many classes would slow down each start of a slot.

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
        """What a notebook shows: where in the user's own code it was raised, and its message."""
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
"""Most characters of a value in a message: a longer value would hide the message."""
LONGEST_STEP = 250


def shortened(text: str, most: int = _LONGEST) -> str:
    """A value for a message, without its middle part if it is long."""
    if len(text) <= most:
        return text
    head, tail = most * 2 // 3, most // 3
    return f"{text[:head]} … {len(text) - head - tail} characters … {text[-tail:]}"


class Stopped(BaseException):
    """Raised in the running function when the supervisor asks the slot to stop (SIGTERM).

    It is no `EncampError`, nor an `Exception`, so that ``except Exception`` does not catch it.
    """


def name_of(exc: BaseException) -> str:
    """The name of an exception's class."""
    return str(vars(type)["__name__"].__get__(type(exc)))


def words_of(exc: BaseException) -> str:
    """The type and message of an exception; never empty, whatever the exception's code does."""
    message = _message(exc)
    return f"{name_of(exc)}: {message}" if message else name_of(exc)


def reason(exc: BaseException) -> str:
    """`words_of`, without its middle part if it is long."""
    return shortened(words_of(exc))


def text_of(exc: BaseException) -> str:
    """The message of an exception, shortened if it is long; its type if it has no message."""
    return shortened(_message(exc), 4 * _LONGEST) or name_of(exc)


def reason_of(exc: BaseException, task: str) -> str:
    """The message of an exception, without the task's name at its beginning."""
    return text_of(exc).removeprefix(f"task {printable(task)}: ")


def _message(exc: BaseException) -> str:
    try:
        return shown("".join(str(exc)).strip())
    except Stopped:
        raise
    except BaseException as other:  # noqa: BLE001 - its own code may raise anything
        return f"(no message: str() raised {name_of(other)})"


class InputError(EncampError):
    """Something that the user gave cannot be used: a file, value, option or function.

    Usually this is found before anything runs. What can only be seen later, such as an output that
    exists already when it is published, fails the one task. The command exits with 2 if the whole
    command line, job file or script cannot be used.
    """


class NoMatch(InputError):
    """A pattern or name matches no file. Raised when files are looked up.

    pattern, folder
        The pattern or name, and the folder in which it was looked up.
    required_anyway
        Whether this input cannot be made optional; the message then does not suggest that.
    task
        The task whose input it is; empty if that is not known, or if it is an input of the job.
    but
        Why files that do match were left out; empty if no file was.
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
    """An input is missing, unreadable, or neither a file nor a folder (a FIFO, for example).

    path, why
        The input, and what is wrong with it.
    task
        The task whose input it is; empty if that is not known, or if it is an input of the job.
    """

    path: str
    why: str
    task: str = ""

    def __str__(self) -> str:
        return f"{_whose(self.task)}cannot use the input {printable(self.path)}: {self.why}"


class UnsafeTarget(InputError):
    """An input would be placed outside the task's folder. Raised when the input is looked up.

    target, why
        The path that was given for it, and what is wrong with that path.
    """

    target: str
    why: str

    def __str__(self) -> str:
        return (
            f"the target {printable(self.target)!r} {self.why}; "
            "give a path inside the task's folder, like 'data' or '.'"
        )


class TargetConflict(InputError):
    """Two inputs of one task would have the same path in its folder.

    target
        That path.
    first, second
        The two inputs.
    task
        The task; empty if that is not known.
    """

    target: str
    first: str
    second: str
    task: str = ""

    def __str__(self) -> str:
        return (
            f"{_whose(self.task)}{printable(self.first)} and {printable(self.second)} "
            f"would both become {printable(self.target)!r} in the task's folder; "
            "rename one, or put it into a different folder"
        )


class OutputConflict(InputError):
    """Two outputs would be published as the same file, by one task or by two.

    Raised before the run if the patterns show it, otherwise when the second one is published.

    destination
        The path of that file.
    first, second
        The two outputs, as patterns, files or tasks.
    """

    destination: str
    first: str
    second: str

    def __str__(self) -> str:
        return (
            f"{printable(self.first)} and {printable(self.second)} would both be published as "
            f"{printable(self.destination)}; rename one, or put it into a different folder"
        )


class OutputExists(InputError):
    """An output exists already, and its option ``existing="error"`` forbids replacing it.

    Raised when the task has run and its outputs are published; the task fails.

    path
        The file that exists.
    """

    path: str

    def __str__(self) -> str:
        return (
            f"{printable(self.path)} exists already; remove it, or set the "
            "output's option existing to 'replace' or 'keep'"
        )


class BadDestination(InputError):
    """A destination cannot be written, or publishing to it would not be safe.

    For example, it is not a folder, a different user controls a part of its path, or an input would
    be replaced. Raised before the run if the problem exists by then; otherwise the task that
    publishes fails.

    path, why
        The destination, and what is wrong with it.
    """

    path: str
    why: str

    def __str__(self) -> str:
        return f"cannot publish to {printable(self.path)}: {self.why}; choose a different folder"


class BadLocalStorage(InputError):
    """The folder for local storage cannot be used. Raised when a host first needs it.

    It must be your own folder, on a disk of the host, and unreadable for others.

    path, why
        The folder, and what is wrong with it.
    """

    path: str
    why: str

    def __str__(self) -> str:
        return (
            f"cannot use the local storage {printable(self.path)}: {self.why}; "
            "set PARALLEL_LOCAL_STORAGE to a folder of your own on this host's disk"
        )


class NotOurs(InputError):
    """Another user might have put a file or folder of a job there, so encamp does not use it.

    Raised when a job folder is opened. If the members of a group run a job together, pass
    ``--shared``, or ``shared=True`` to the job.

    path, why
        The file or folder, and what is wrong with it.
    """

    path: str
    why: str

    def __str__(self) -> str:
        return f"cannot use {printable(self.path)}: {self.why}"


class BadJob(InputError, ValueError):
    """A job, task or option has a name, dependency or value that is not allowed.

    Raised when the job is created or before it runs. It is also a `ValueError`.

    what, why
        The part of the job, and what is wrong with it.
    """

    what: str
    why: str

    def __str__(self) -> str:
        return f"{shortened(printable(self.what))}: {shortened(self.why)}"


class WrongType(BadJob, TypeError):
    """A value has the wrong type. It is also a `TypeError`.

    what, why
        The value's name, and which type is expected.
    """


class NotCallable(BadJob, TypeError):
    """Something that should be a function is not, often because it was called: ``call(f(x))``.

    It is also a `TypeError`.

    what, why
        The value, and what is wrong with it.
    use
        The right way to write it, for the message.
    """

    use: str = "call(f, x), not call(f(x))"

    def __str__(self) -> str:
        return (
            f"{printable(self.what)}: {self.why}; give the function and its arguments: {self.use}"
        )


class UnknownOption(InputError, TypeError):
    """A keyword argument or option does not exist. It is also a `TypeError`.

    name, known
        Its name, and the names of all options that exist.
    """

    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        from difflib import get_close_matches  # imported here, because it loads slowly

        close = get_close_matches(self.name, self.known, 1)
        guess = f"did you mean {close[0]!r}? The options are" if close else "the options are"
        return f"there is no option {self.name!r}; {guess} {', '.join(self.known)}"


class BadJobFile(InputError):
    """A job file is not valid TOML, or something in it is not allowed. Nothing was run.

    file, why
        The job file, and what is wrong with it.
    line, column
        Where, counted from 1; both are 0 if the error is about the whole file.
    """

    file: str
    line: int
    column: int
    why: str

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{printable(self.file)}{place}: {self.why}"


class CannotTravel(InputError, PicklingError):
    """A function, argument, message or result cannot be pickled, so no other process can get it.

    Raised where the object is sent; for a result, the task fails. It is also a
    `pickle.PicklingError`.

    what, why
        The object, and the error of `pickle`.
    remedy
        What to do instead, for the message.
    """

    what: str
    why: str
    remedy: str = "open files, locks and connections inside the function instead of outside it"

    def __str__(self) -> str:
        what, why = shortened(self.what), shortened(self.why)
        return f"{what} cannot be sent to another process: {why}; {self.remedy}"


class OtherPython(InputError):
    """A function of a script or notebook was sent to a host with a different version of Python.

    Such functions are sent as bytecode, which is not compatible between versions. Functions of
    modules are not affected.

    theirs, ours
        The versions of the program and of the host.
    """

    theirs: str
    ours: str

    def __str__(self) -> str:
        return (
            f"a function of a script or notebook that runs in {self.theirs} cannot run in "
            f"{self.ours}: use one version of Python on all hosts, or import the function from a "
            "module that all of them have"
        )


class JobBusy(InputError):
    """A different process, or a different run in this one, is running this job now.

    folder, owner
        The job's folder, and the process that runs the job.
    """

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
    """An engine does not exist, is not installed, or cannot be used with these options.

    Raised when a cluster or job starts.

    engine, why
        The engine's name, and what is wrong.
    remedy
        What to install, start or change, for the message.
    """

    engine: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"the engine {printable(self.engine)!r} cannot be used: {self.why}; {self.remedy}"


class UnsupportedByEngine(InputError):
    """The engine cannot do what was requested: inline tasks cannot be killed, for example.

    engine, what
        The engine's name, and what it cannot do.
    remedy
        What to do instead, for the message.
    """

    engine: str
    what: str
    remedy: str = "use a different engine for it"

    def __str__(self) -> str:
        return f"the engine {self.engine!r} cannot {self.what}; {self.remedy}"


class BadHostfile(InputError):
    """A hostfile cannot be read, or a line of it is not valid.

    file, why
        The hostfile, and what is wrong with it.
    """

    file: str
    why: str

    def __str__(self) -> str:
        return f"the hostfile {printable(self.file)} cannot be used: {self.why}"


class HostsNotReached(EncampError):
    """A command failed on some of its hosts, such as ``encamp clean --hosts``.

    why
        A dictionary: the name of each such host, and what went wrong there.
    """

    why: dict[str, str]

    def __str__(self) -> str:
        each = [f"{printable(host)}: {printable(why)}" for host, why in self.why.items()]
        return f"failed on {len(each)} host{'s' * (len(each) != 1)}: {'; '.join(each)}"


class WrongLength(InputError, ValueError):
    """There are more or fewer values than servers, which should get one each. Also a `ValueError`.

    what, given
        What the values are, and how many were given.
    servers
        The number of servers.
    """

    what: str
    given: int
    servers: int

    def __str__(self) -> str:
        return f"{self.given} {self.what} for {self.servers} servers; give one for each"


class NoSuchHost(InputError):
    """A host was named that is not in the cluster.

    host, known
        Its name, and the names of the cluster's hosts.
    """

    host: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        known = ", ".join(map(printable, self.known)) or "none"
        return f"there is no host {printable(self.host)!r} in the cluster; its hosts are: {known}"


class NoSuchConsole(InputError):
    """No program of this user on this host has a server of this name (``encamp attach``).

    name, known
        The name, and the names of all servers.
    """

    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        there = f"there are {', '.join(map(printable, self.known))}"
        if not self.known:
            there = "your programs on this host have none"
        return f"there is no server {printable(self.name)!r} on this host; {there}"


class SeveralConsoles(InputError):
    """Several programs of this user have a server of this name (``encamp attach``).

    name, programs
        The name, and the process ids of the programs.
    """

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
    """A task or service needs more than any host, or all of them together, can ever provide.

    what
        What it needs: "cores", "GPUs", "hosts", "slots", servers, or "of memory".
    need, most
        How many it needs, and how many there are; bytes for memory.
    together
        Whether ``most`` is the sum over all hosts, not the amount of the largest one.
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
    """Warns that several tasks get copies of one random number generator in the same state.

    All of them draw the same numbers. Create the generator in the function, from a seed that is an
    argument.

    function, names
        The function, and the names of its arguments or variables that are generators.
    """

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
    """A disk operation failed. The task that needed it fails; other tasks continue."""


_LITTLE = 1 << 20
"""Bytes that a file system keeps for itself, or that have been freed in the meantime."""


class DiskFull(StorageError):
    """A disk has no room left for a file, or no inodes, or a quota is exhausted.

    path, host
        A path on that disk, and the host.
    need, free
        How many bytes are needed and how many are free.
    """

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
            return f"{disk} is full: {why}; remove some files, or use a different disk"
        return (
            f"{disk} is full: {size_text(self.need)} are needed, "
            f"{size_text(self.free)} are free; free some space, or use a different disk"
        )


class CannotRemove(StorageError):
    """``encamp clean`` or ``encamp prune`` could not remove some files or folders.

    left
        A dictionary: the path of each, and why it cannot be removed.
    """

    left: dict[str, str]

    def __str__(self) -> str:
        return "\n".join(
            f"cannot remove {printable(path)}: {why}" for path, why in self.left.items()
        )


class ModeRefused(StorageError):
    """An input cannot be mirrored in the mode that was requested; ``mode="auto"`` always works.

    mode, path
        The mode and the input.
    why
        Why the mode is not possible for it.
    """

    mode: str
    path: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.path} cannot be mirrored in the mode {self.mode!r}: {self.why}; "
            "use mode='auto' to get the best one available"
        )


class ShippingFailed(StorageError):
    """A file did not arrive intact when it was sent between the program and a host.

    Files are sent only if the host does not see the file's folder. The task fails; a retry sends
    the file again.

    path, why
        The file, and what went wrong.
    """

    path: str
    why: str

    def __str__(self) -> str:
        return f"{printable(self.path)} could not be sent to this host: {self.why}; try again"


class SourceChanged(StorageError):
    """An input changed while it was being copied, so the copy would be inconsistent.

    path
        The input. Run again when it no longer changes.
    """

    path: str

    def __str__(self) -> str:
        return (
            f"{printable(self.path)} changed while it was copied; run again when it no "
            "longer changes"
        )


class TaskError(EncampError):
    """A task failed; other tasks continue.

    In a cluster, the task's ``result()`` raises it. In a job, it is recorded in the report
    (``error`` and ``error_type`` of its `AttemptReport`), and `JobFailed` is raised at the end.

    task
        The task's name.
    """

    task: str


class StepFailed(TaskError):
    """A step of a task raised an exception, or its command exited with a status other than 0.

    step, cause
        The step, and how it failed: the exception, or the exit status or signal.
    exit_code
        The command's exit code (negative: killed by that signal); None if the step is a function.
    """

    step: str
    exit_code: int | None
    cause: str

    def __str__(self) -> str:
        step = shortened(printable(self.step), 2 * LONGEST_STEP)
        return f"task {printable(self.task)}: step {step!r} {self.cause}"


class CommandNotFound(TaskError):
    """A step's command does not exist on the host that runs the task.

    command, host
        The command's first word, and the host.
    """

    command: str
    host: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)}: no command {shortened(printable(self.command))!r} "
            f"on {self.host}; "
            "install it there, give its full path, or mirror it into the task's folder"
        )


class MissingOutput(TaskError):
    """A task has ended without making an output that it declares.

    pattern
        The output's pattern.
    made
        Names of new files in the task's folder.
    unchanged
        Inputs that match the pattern, but which the task did not change.
    """

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
    """An output of a task cannot be published: it is a FIFO or a broken symlink, for example.

    path, why
        The output, and what is wrong with it.
    """

    path: str
    why: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)}: its output {printable(self.path)} cannot be "
            f"published: {self.why}"
        )


class BadValues(TaskError, ValueError):
    """A task's values cannot become a row of the job's table. It is also a `ValueError`.

    why
        What is wrong with them, or with the file that contains them.
    """

    why: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)}: {shortened(self.why)}; a task's value must be a "
            "number, a string, true, false or null (None in Python), or a mapping of names to these"
        )


class NotInTime(EncampError, TimeoutError):
    """A wait reached its ``timeout``. What was awaited continues. It is also a `TimeoutError`.

    what, seconds
        What did not happen, and the timeout in seconds.
    why
        What is known about the reason; may be empty.
    """

    what: str
    seconds: float
    why: str = ""

    def __str__(self) -> str:
        why = f"; {printable(self.why)}" if self.why else ""
        return f"{printable(self.what)} within {self.seconds:g} s{why}"


class NotInstalled(EncampError, ImportError):
    """An optional library is not installed. It is also an `ImportError`.

    library, instead
        The library's name, and what works without it.
    """

    library: str
    instead: str

    def __str__(self) -> str:
        return f"{self.library} is not installed; pip install {self.library}, or {self.instead}"


class InputDamaged(TaskError):
    """A task wrote to an input that it shares with other tasks; its outputs are not published.

    The damaged copy is removed, so other tasks get a new one. Change a copy of the file instead, or
    mirror the input with ``mode="copy"``.

    path
        The input's path in the task's folder.
    """

    path: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)} wrote to {printable(self.path)}, an input that it shares "
            "with other tasks; copy the file before changing it, or mirror it with the mode 'copy'"
        )


class InputLost(TaskError):
    """An input was damaged or removed on the host's disk while the task ran.

    Usually a program that cleans temporary files did this. The task's outputs are not published.

    path, storage
        The input's path in the task's folder, and the local storage, which such programs must not
        clean.
    """

    path: str
    storage: str

    def __str__(self) -> str:
        return (
            f"task {printable(self.task)}: its input {printable(self.path)} was damaged or "
            "removed while it ran, so its outputs were not published; exclude "
            f"{printable(self.storage)} from cleaners of temporary files"
        )


class TimeLimitExceeded(TaskError):
    """A task, or one of its steps, ran longer than its time limit and was killed.

    step
        The step whose limit it was; None if it was the limit of the whole task.
    limit
        The limit in seconds.
    """

    step: str | None
    limit: float

    def __str__(self) -> str:
        step = shortened(printable(self.step), 2 * LONGEST_STEP)
        what = "" if self.step is None else f": step {step!r}"
        return f"task {printable(self.task)}{what} ran longer than its limit of {self.limit:g} s"


class TaskKilled(TaskError):
    """A task was killed on request, by ``kill()`` or when its cluster closed.

    host
        The host that it ran on.
    """

    host: str

    def __str__(self) -> str:
        return f"task {printable(self.task)} was killed on {self.host}"


class TaskLost(TaskError, BrokenExecutor):
    """The process that ran a task ended before the task did, for example for lack of memory.

    It is also a `concurrent.futures.BrokenExecutor`, which standard pools raise; but here all other
    tasks continue, and a new process takes the slot.

    host, why
        The host, and what is known about the reason; ``why`` may be empty.
    exit_code
        The exit code, as in `subprocess` (negative: killed by that signal); None if unknown.
    """

    host: str
    exit_code: int | None
    why: str = ""

    def __str__(self) -> str:
        end = "disappeared" if self.exit_code is None else ending_text(self.exit_code)
        why = f" ({self.why})" if self.why else ""
        return f"task {printable(self.task)} was lost: its process on {self.host} {end}{why}"


class ServiceError(EncampError):
    """A service, or one of its servers, failed.

    Exceptions that your own methods raise are raised unchanged.
    """


class ServerLost(ServiceError, BrokenExecutor):
    """A server died, and the call is not repeated.

    Repeat it yourself if ``begun`` is False: the call has had no effect. With
    ``at_least_once=True``, encamp repeats calls. It is also a `concurrent.futures.BrokenExecutor`.

    service, call, host
        The service, the method that was called, and the server's host.
    begun
        Whether the call had started when the server died; None if that is not known.
    exit_code, why
        The exit code, as in `subprocess` (None if unknown), and what is known about the reason.
    lost
        The number of answered calls that are missing from the state of the server's replacement.
    limit
        The service's ``call_limit`` in seconds, if the server was killed because it exceeded that.
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
            "acquire a new server"
        )


class ServiceEnded(ServiceError):
    """A service was used after its ``terminate()``, or after its cluster was closed.

    service
        The service's name.
    """

    service: str

    def __str__(self) -> str:
        return f"the service {printable(self.service)} was terminated; publish it again"


class ServiceFailed(ServiceError, BrokenExecutor):
    """A service has no servers left, and new ones cannot start or do not stay alive.

    Its ``__cause__`` is the last server's error, if there is one. It is also a
    `concurrent.futures.BrokenExecutor`.

    service, why
        The service's name, and what happened to its servers.
    """

    service: str
    why: str

    def __str__(self) -> str:
        return f"the service {printable(self.service)} has no servers left: {self.why}"


class ProxyReleased(ServiceError, RuntimeError):
    """A method was called on a proxy after its ``release()``. It is also a `RuntimeError`.

    service
        The service's name.
    """

    service: str

    def __str__(self) -> str:
        return f"this proxy of {printable(self.service)} was released; acquire a new one"


class CircularCall(ServiceError, RuntimeError):
    """A call would never end, because servers would wait for each other in a cycle.

    Raised in one of the servers that wait for each other. It is also a `RuntimeError`.

    what
        The call or service that it would wait for.
    """

    what: str

    def __str__(self) -> str:
        return (
            f"waiting for {printable(self.what)} would never end: its server waits, directly "
            "or through others, for this call; let one of the two return first"
        )


class GroupBroken(ServiceError):
    """A server waited for a message from its group, but a member of the group has ended.

    service
        The service's name.
    """

    service: str

    def __str__(self) -> str:
        return f"a member of this group of {printable(self.service)} has ended; acquire a new group"


class ClusterError(EncampError):
    """A cluster as a whole failed, not only one of its tasks."""


class ClusterClosed(ClusterError, RuntimeError):
    """A cluster, executor or virtual machine was used after it was closed. Also a `RuntimeError`.

    what
        What is closed.
    """

    what: str = "the cluster"

    def __str__(self) -> str:
        return f"{self.what} is closed; create a new one"


class EngineFailed(ClusterError):
    """An engine could not start, or broke down later. The cluster cannot run tasks any more.

    engine, why
        The engine's name, and what went wrong.
    """

    engine: str
    why: str

    def __str__(self) -> str:
        return f"the engine {self.engine!r} failed: {self.why}"


class NoPython(ClusterError):
    """This process does not know with which interpreter to start slots.

    Raised when a cluster starts in a frozen program or an embedded interpreter.

    why
        Why it does not know.
    """

    why: str

    def __str__(self) -> str:
        return (
            f"cannot start Python for slots: {self.why}; name an interpreter with "
            "multiprocessing.set_executable() or, in a frozen program, call "
            "encamp.freeze_support() before anything else"
        )


class SlotsCannotStart(ClusterError):
    """The processes of a host's slots end while they start, so the host cannot run tasks.

    host, tries
        The host, and how many processes in a row have ended.
    words
        The last output of one of them, or an error of the operating system.
    """

    host: str
    tries: int
    words: str

    def __str__(self) -> str:
        words = self.words or "it printed nothing"
        times = "once" if self.tries == 1 else f"{self.tries} times in a row"
        return f"a slot cannot start on {self.host}, tried {times}: {printable(words)}"


class TooFewFiles(ClusterError):
    """This process cannot open as many files as its slots need.

    Raised when a cluster starts or grows. Raise the limit (``ulimit -n``), or use fewer slots.

    slots
        The number of slots to be started.
    need, limit
        How many open files are needed, and the hard limit (``ulimit -Hn``).
    """

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
    """An executor's ``initializer`` raised an exception, so none of the executor's calls can run.

    It is also a `concurrent.futures.BrokenExecutor`, which standard pools raise.

    initializer, host
        The initializer's name, and the host on which it ran.
    why
        The exception's type and message.
    """

    initializer: str
    host: str
    why: str

    def __str__(self) -> str:
        return (
            f"the initializer {printable(self.initializer)} failed on {self.host}: {self.why}; "
            "fix the initializer and create a new executor"
        )


class BadFrame(ClusterError):
    """Bytes that arrived are not a message of encamp. encamp drops them, or closes the connection.

    why
        What is wrong with them.
    """

    why: str

    def __str__(self) -> str:
        return f"refused a message: {self.why}"


class OutOfTime(EncampError):
    """A run stopped because the batch job's allocation is about to end.

    Run the job again to continue. Finished tasks are published. The command exits with 75.

    allocation, end
        The id of the batch job, and when its allocation ends (as `time.time` returns it).
    done, tasks
        How many tasks are done, and how many the job has.
    waiting, needed
        A task that was not started because it may take ``needed`` seconds; None if there is none.
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

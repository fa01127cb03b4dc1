"""Functions that the conformance suite runs in tasks. It imports nothing that only tests need."""

# ruff: noqa: S101

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from encamp.slot.current_task import CurrentTask, current_task
from encamp.storage.shared_folders import Portable, local
from encamp.wire.protocol import SPAWNER

LONG = 600.0
"""Seconds; longer than anything in these tests takes."""


def add(a: int, b: int = 1) -> int:
    """``a + b``."""
    return a + b


def same(value: Any) -> Any:
    """The value."""
    return value


def pid() -> int:
    """The process id of the slot."""
    return os.getpid()


def host_and_pid() -> tuple[str, int]:
    """The host and process id of the slot; together they are unique."""
    return current_task().host, os.getpid()


def whoami() -> tuple[int, str, int, int, str]:
    """The id, host, slot, parent and name of the task."""
    me = current_task()
    return me.id, me.host, me.slot, me.parent, me.name


def gated(function: Callable[..., Any], *args: Any) -> Any:
    """Report to the spawner that the task runs, wait for a message, and call the function."""
    me = current_task()
    me.send(0, "ready")
    me.receive(None, 0)
    return function(*args)


def wait_for_ever() -> NoReturn:
    """Send the spawner the process id, and never end."""
    current_task().send(0, os.getpid())
    while True:
        time.sleep(LONG)


def deaf() -> NoReturn:
    """The same, and ignore all exceptions."""
    while True:
        with suppress(BaseException):
            wait_for_ever()


def blocked_in_c() -> NoReturn:
    """The same, in compiled code that holds Python's interpreter lock."""
    current_task().send(0, os.getpid())
    libc = ctypes.PyDLL(None)
    while True:
        libc.sleep(1)


def family() -> NoReturn:
    """Start a process in its own session, send the spawner its id, and never end."""
    command = ["sleep", str(int(LONG))]
    child = subprocess.Popen(command, start_new_session=True)
    current_task().send(0, child.pid)
    while True:
        time.sleep(LONG)


def tell_pid_and_wait() -> int:
    """Send the spawner the process id, wait for a message, and return the id."""
    current_task().send(0, os.getpid())
    current_task().receive()
    return os.getpid()


class Odd(Exception):
    """An error with more attributes than its arguments."""

    def __init__(self, number: int, *, hint: str = "") -> None:
        super().__init__(number)
        self.number, self.hint = number, hint

    def __reduce__(self) -> tuple[Any, ...]:
        return _odd, (self.number, self.hint)


def _odd(number: int, hint: str) -> Odd:
    return Odd(number, hint=hint)


class Closed(Exception):
    """An error that cannot be pickled."""

    def __init__(self, *, number: int) -> None:
        super().__init__("my words")
        self.number, self.inside = number, threading.Lock()


class Trap:
    """Raises ZeroDivisionError when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return divmod, (1, 0)


def raise_odd(number: int) -> NoReturn:
    """Raise an `Odd`."""
    raise Odd(number, hint="look here")


def raise_closed() -> NoReturn:
    """Raise a `Closed`."""
    raise Closed(number=5)


def make_generator() -> Iterator[int]:
    """Return something that cannot be sent."""
    yield 1


def fork_and_go_on() -> str:
    """Fork, and return from the call in both processes."""
    child = os.fork()
    if not child:
        return "child"
    os.waitpid(child, 0)
    return "parent"


def fork_and_terminate() -> int | None:
    """End a forked process by SIGTERM, as multiprocessing does; its exit code."""
    context = multiprocessing.get_context("fork")
    began = context.Event()
    process = context.Process(target=_began_and_sleeps, args=(began,))
    process.start()
    began.wait()
    process.terminate()
    process.join()
    return process.exitcode


def _began_and_sleeps(began: Any) -> None:
    began.set()
    time.sleep(LONG)


def raise_base(name: str) -> NoReturn:
    """Raise an exception that usually ends a program."""
    raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}[name](3)


def unpicklable() -> Any:
    """Return something that cannot be pickled."""
    return threading.Lock()


def trap() -> Trap:
    """Return something that cannot be unpickled."""
    return Trap()


def die(how: str) -> NoReturn:
    """End the slot's process."""
    match how:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("still alive")


def die_at(number: int, fatal: int) -> int:
    """Return the number, or end the process."""
    return os._exit(3) if number == fatal else number


def wait_at(number: int, last: int) -> int:
    """Return the number; the last one waits for a message."""
    if number == last:
        current_task().receive()
    return number


def die_after(how: str) -> NoReturn:
    """Wait for a message; then end the slot's process."""
    current_task().send(0, "ready")
    current_task().receive()
    die(how)


def count_run(folder: Portable, name: str) -> int:
    """Record in a file that this ran; several processes may append to it."""
    fd = os.open(local(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(fd, b"x")
    os.close(fd)
    return os.getpid()


def count_run_and_die(folder: Portable, name: str, how: str) -> int:
    """Record in a file that this ran, and end the slot's process as ``how`` says, if given."""
    count_run(folder, name)
    if how:
        die(how)
    return os.getpid()


def echo(count: int) -> int:
    """Send ``count`` messages back to their senders."""
    me = current_task()
    for _ in range(count):
        got = me.receive()
        assert got is not None
        me.send(got.source, got.message)
    return count


def send_numbers(to: int, count: int) -> int:
    """Send ``(own id, 0)``, ``(own id, 1)``, …"""
    me = current_task()
    for number in range(count):
        me.send(to, (me.id, number))
    return count


def collect(count: int) -> list[tuple[int, Any]]:
    """Receive that many messages; returns their sources and contents."""
    me = current_task()
    found: list[tuple[int, Any]] = []
    for _ in range(count):
        got = me.receive(30)
        assert got is not None, f"only {len(found)} came"
        found.append((got.source, got.message))
    return found


def partner() -> int:
    """The id of the partner task, which the spawner sends."""
    got = current_task().receive(None, 0)
    assert got is not None
    task: int = got.message
    return task


def swap(size: int, rounds: int) -> list[int]:
    """Send big messages to a partner that does the same; returns the sizes of those received."""
    me, other = current_task(), partner()
    for number in range(rounds):
        me.send(other, bytes([number]) * size)
    return [_checked(me, other, number) for number in range(rounds)]


def _checked(me: CurrentTask, other: int, number: int) -> int:
    got = me.receive(60, other)
    assert got is not None, "it did not come"
    assert got.message[:1] in (b"", bytes([number])), "out of order"
    return len(got.message)


def flood(size: int, rounds: int) -> list[int]:
    """Send big messages to the spawner, then receive as many from it."""
    me = current_task()
    for number in range(rounds):
        me.send(0, bytes([number]) * size)
    return [_checked(me, 0, number) for number in range(rounds)]


def ping(count: int, size: int) -> int:
    """Send messages to a partner that echoes them; returns how many came back unchanged."""
    me, other = current_task(), partner()
    good = 0
    for number in range(count):
        text = number.to_bytes(4, "big") * (size // 4)
        me.send(other, text)
        got = me.receive(60, other)
        good += got is not None and got.message == text
    return good


def picks() -> list[int]:
    """Receive a task's id, then a message of that task, then any other; returns the senders."""
    me, first = current_task(), partner()
    given = me.receive(30, first), me.receive(30)
    return [got.source for got in given if got is not None]


def timed_out(timeout: float) -> tuple[bool, float, float]:
    """Whether `receive` without a message returns None, and its elapsed and CPU seconds."""
    began, cpu = time.monotonic(), time.process_time()
    got = current_task().receive(timeout)
    return got is None, time.monotonic() - began, time.process_time() - cpu


def cpu_of_waiting() -> float:
    """The CPU seconds of a wait for a message."""
    me = current_task()
    me.send(0, "ready")
    cpu = time.process_time()
    me.receive()
    return time.process_time() - cpu


def changed_after_sending(array: Any) -> None:
    """Send an array, and change it immediately afterwards."""
    current_task().send(0, array)
    array[:] = 0


def harm(what: str) -> tuple[str, int]:  # noqa: C901 - one line for each
    """Change the process in many ways."""
    match what:
        case "folder":
            os.chdir(os.sep)
            os.umask(0)
        case "environment":
            os.environ["LEFT_BEHIND"] = "yes"
            os.environ.pop("HOME", None)
        case "import path":
            sys.path.insert(0, "/left/behind")
        case "streams":
            sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        case "signals":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        case "alarm":
            signal.setitimer(signal.ITIMER_REAL, LONG)
        case "limits":
            _lower_limits()
        case "thread":
            threading.Thread(target=time.sleep, args=(LONG,), daemon=True, name="left").start()
        case "process":
            subprocess.Popen(["sleep", str(int(LONG))], start_new_session=True)
        case "messages":
            current_task().send(current_task().id, "left behind")
    return host_and_pid()


def send_while_interrupted(rounds: int) -> list[int]:
    """Send bytearrays to the program while a handler raises; the rounds that it did not end."""
    if threading.current_thread() is not threading.main_thread():
        return []  # signals are for main threads

    def out_of_time(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, out_of_time)
    sent, data = [], bytearray(300_000)
    for number in range(rounds):
        with suppress(TimeoutError):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.0003 * (number % 9))
                data[:] = bytes([number]) * len(data)
                current_task().send(0, data)
                sent.append(number)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return sent


def send_in_handlers(seconds: float) -> int:
    """Send to the program, even in the handler of an alarm; returns the number of messages."""
    task, numbers, sent = current_task(), count(1), 0
    if threading.current_thread() is not threading.main_thread():
        return 0

    def send(*_: object) -> None:
        nonlocal sent
        task.send(0, bytearray(next(numbers) % 2 * 200_000))
        sent += 1

    signal.signal(signal.SIGALRM, send)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        send()
    signal.setitimer(signal.ITIMER_REAL, 0)
    return sent


def state() -> tuple[tuple[str, int], dict[str, Any]]:
    """Host and process id, and the state of the process."""
    mask = os.umask(0o077)
    os.umask(mask)
    left = current_task().receive(0)
    return host_and_pid(), {
        "folder": str(Path.cwd()),
        "umask": mask,
        "environment": {key: os.environ.get(key) for key in ("LEFT_BEHIND", "HOME")},
        "import path": "/left/behind" in sys.path,
        "streams": sys.stdout is sys.__stdout__,
        "signals": [
            str(signal.getsignal(s))
            for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM)
        ],
        "alarm": signal.getitimer(signal.ITIMER_REAL),
        "limits": [resource.getrlimit(r) for r in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)],
        "recursion": sys.getrecursionlimit(),
        "processes": _children(),
        "messages": left and left.message,
    }


def _lower_limits() -> None:
    for limit, soft in ((resource.RLIMIT_NOFILE, 50), (resource.RLIMIT_AS, 1 << 40)):
        resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))
    sys.setrecursionlimit(200)


def _children() -> list[str]:
    import psutil

    return [child.name() for child in psutil.Process().children(recursive=True)]


def digest_of_key() -> str:
    """A digest of this process's `multiprocessing` key."""
    return hashlib.sha256(multiprocessing.current_process().authkey).hexdigest()


def mark_modules() -> tuple[str, int]:
    """Leave something in a module that a new interpreter does not have."""
    sys.modules["left_by_conformance"] = sys
    return host_and_pid()


def modules() -> tuple[tuple[str, int], bool, bool]:
    """Host and process id, whether `mark_modules` was here, and whether pytest is imported."""
    return host_and_pid(), "left_by_conformance" in sys.modules, "pytest" in sys.modules


def shout(text: str) -> None:
    """Print in all possible ways."""
    print(f"python {text}")  # noqa: T201
    print(f"error {text}", file=sys.stderr)  # noqa: T201
    os.write(1, f"descriptor {text}\n".encode())
    subprocess.run(["sh", "-c", f"echo command {text}"], check=True)
    libc = ctypes.CDLL(None)
    libc.puts(f"c {text}".encode())


def shout_and_wait(text: str) -> None:
    """Print and wait for a message before the end."""
    print(text, flush=True)  # noqa: T201
    os.write(2, b"from below\n")
    current_task().receive()
    print("the end")  # noqa: T201


def shout_and_die(text: str) -> NoReturn:
    """Print and crash."""
    print(text, flush=True)  # noqa: T201
    die("segv")


def shout_much(size: int) -> None:
    """Print that many bytes, numbered lines."""
    line = "%07d\n"
    for number in range(size // 8):
        sys.stdout.write(line % number)


def read(name: str) -> bytes:
    """A file of the current folder."""
    return Path(name).read_bytes()


def write(name: str, text: str) -> str:
    """Write a file into the current folder; returns the folder."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return str(Path.cwd())


def write_and_end(name: str, text: str, how: str) -> NoReturn:
    """Write a file into the current folder, and end as `die` does, or "wait" to be ended."""
    write(name, text)
    if how != "wait":
        die(how)
    wait_for_ever()


def upper(source: str, target: str) -> None:
    """Write a copy of a file in capital letters."""
    Path(target).write_text(Path(source).read_text(encoding="utf-8").upper(), encoding="utf-8")


def listing() -> tuple[str, list[str], str | None]:
    """The current folder, its contents, and the task's folder."""
    folder = current_task().folder
    here = Path.cwd()
    names = sorted(path.name for path in here.iterdir())
    return str(here), names, None if folder is None else str(folder)


def keep(name: str) -> tuple[str, list[str]]:
    """Add a file to the current folder; returns the folder and its previous contents."""
    here = Path.cwd()
    before = sorted(path.name for path in here.iterdir())
    Path(name).write_text(name, encoding="utf-8")
    return str(here), before


def variable(name: str) -> str | None:
    """An environment variable."""
    return os.environ.get(name)


def interval(seconds: float) -> tuple[float, float]:
    """When this began and ended, by a clock that all processes of a host share."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def refill(to: int, times: int, size: int) -> None:
    """Send one array ``times`` times, filled with 0, 1, 2, …; to itself if ``to`` is -1."""
    import numpy

    me, array = current_task(), numpy.empty(size)
    for number in range(times):
        array[:] = number
        me.send(me.id if to < 0 else to, array)
    array[:] = -1
    if to < 0:
        me.send(SPAWNER, fillings(times))


def whole(array: Any) -> float:
    """The value that fills an array; -2 if it has several."""
    return float(array[0]) if (array == array[0]).all() else -2.0


def fillings(count: int) -> list[float]:
    """The values of the next arrays that arrive."""
    return [whole(message) for _, message in collect(count)]


def lasting(number: int, size: int) -> Any:
    """The same array in each call in a slot, filled with a new value."""
    import numpy

    name = f"_encamp_lasting_{size}_{threading.get_ident()}"
    kept = vars(sys).setdefault(name, numpy.empty(size))
    kept[:] = number
    return kept


def chorus(threads: int, count: int, size: int) -> list[str]:
    """Send from several threads at once and receive the echoes there; returns their exceptions."""
    me, raised = current_task(), list[str]()

    def work(number: int) -> None:
        try:
            for turn in range(count):
                me.send(SPAWNER, (number, turn, bytes(size)))
                me.receive(LONG, SPAWNER)
        except Exception as exc:  # noqa: BLE001 - it is recorded
            raised.append(f"{type(exc).__name__}: {exc}")

    started = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return raised


def leave_speaker(gate: Portable) -> None:
    """Leave one thread that receives, and one that sends when the next task runs (a file exists).

    Files beside that one contain what they raise.
    """
    me, found = current_task(), local(gate)

    def listen() -> None:
        _noted(found.with_name("listened"), me.receive)

    def speak() -> None:
        while not found.exists():
            time.sleep(0.01)
        _noted(found.with_name("named"), current_task)
        _noted(found.with_name("spoken"), lambda: me.send(SPAWNER, "from the grave"))

    threading.Thread(target=listen, daemon=True).start()
    context = copy_context()
    threading.Thread(target=context.run, args=(speak,), daemon=True).start()


def _noted(file: Path, action: Callable[[], object]) -> None:
    try:
        outcome = repr(action())
    except RuntimeError as exc:
        outcome = str(exc)
    new = file.with_suffix(".new")
    new.write_text(outcome)
    new.rename(file)

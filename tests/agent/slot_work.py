"""What the tests run in slots."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from encamp.slot.this_process import note, send_to_supervisor


def tell_and_wait() -> int:
    """Tell the process id; the supervisor decides when to go on."""
    send_to_supervisor(os.getpid())
    return os.getpid()


def tell_all(count: int) -> int:
    """Tell the numbers up to ``count``."""
    for number in range(count):
        send_to_supervisor(number)
    return count


def divide(a: int, b: int) -> float:
    """``a / b``."""
    return a / b


class Unpicklable(Exception):
    """An exception that no pickle can carry."""

    def __init__(self) -> None:
        super().__init__("my words")
        self.inside = lambda: None


def raise_unpicklable() -> None:
    """Raise it."""
    raise Unpicklable


def raise_interrupt() -> None:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


def die(how: str) -> None:
    """End the slot."""
    match how:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)


def spin() -> None:
    """Never end, in Python."""
    send_to_supervisor(os.getpid())
    while True:
        pass


def sleep() -> None:
    """Never end, asleep."""
    send_to_supervisor(os.getpid())
    time.sleep(600)


def deaf() -> None:
    """Never end, whatever is raised."""
    send_to_supervisor(os.getpid())
    while True:
        with suppress(BaseException):
            time.sleep(600)


def blocked_in_c() -> None:
    """Never come back from compiled code to where Python looks at signals."""
    send_to_supervisor(os.getpid())
    libc = ctypes.PyDLL(None)
    while True:
        libc.sleep(1)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def background(session: bool, ends: str) -> None:
    """Start a process that ignores SIGTERM, tell its id, and end as asked."""
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=session
    )
    assert process.stdout is not None
    process.stdout.readline()
    send_to_supervisor(process.pid)
    if ends == "dies":
        os._exit(1)
    if ends != "returns":
        time.sleep(600)


def zombie() -> None:
    """Have a child that has ended and is not waited for, and never end."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    send_to_supervisor(os.getpid())
    while True:
        with suppress(BaseException):
            time.sleep(600)


def interrupt_a_command() -> int:
    """Send SIGINT to a command; its exit status as subprocess gives it."""
    process = subprocess.Popen(["sleep", "600"])
    process.send_signal(signal.SIGINT)
    return process.wait()


def environment() -> dict[str, str]:
    """The environment of the slot."""
    return dict(os.environ)


def note_and_die(*notes: object) -> None:
    """Leave notes, then end the slot at once."""
    for one in notes:
        note(one)
    os._exit(3)


def loaded_with(module: str) -> set[str]:
    """The modules in this process, once it has imported one."""
    importlib.import_module(module)
    return set(sys.modules)


class Writer:
    """Writes a file when it is collected, which takes a look for garbage: it refers to itself."""

    def __init__(self, path: str) -> None:
        self.itself, self.path = self, path

    def __del__(self) -> None:
        Path(self.path).write_text("all")


def leave_garbage(path: str) -> None:
    """Leave what writes a file when it is collected."""
    Writer(path)


def note_and_wait(path: str) -> str:
    """Leave a note, and return when there is a file."""
    note(path)
    while not Path(path).exists():
        time.sleep(0.01)
    return path

"""Steps of the jobs that the tests run; slots import them without importing the tests."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path


def nothing() -> None:
    """Do nothing."""


def count(counter: str, name: str) -> None:
    """Tell a counter outside the task's folder that the task ran; one atomic write."""
    fd = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, name.encode("utf-8", "surrogateescape").hex().encode() + b"\n")
    os.close(fd)


def counted(counter: str | Path) -> list[str]:
    """The names told to a counter, in order."""
    lines = Path(counter).read_text().split() if Path(counter).exists() else []
    return [bytes.fromhex(line).decode("utf-8", "surrogateescape") for line in lines]


def write(name: str, text: str = "made\n") -> None:
    """Write a file of the task's folder."""
    Path(name).write_text(text)


def join(counter: str, name: str, factor: int = 1) -> None:
    """Count the run, then write ``out.txt`` from all other files in the folder."""
    count(counter, name)
    parts = sorted(path for path in Path().rglob("*") if path.is_file())
    text = "".join(f"{path}={path.read_text()}" for path in parts) * factor
    Path("out.txt").write_text(text, errors="surrogateescape")


def fail(counter: str, times: int) -> None:
    """Fail the first ``times`` times that this is called."""
    count(counter, "try")
    if len(counted(counter)) <= times:
        raise ValueError("not yet")
    Path("out.txt").write_text("at last\n")


def give(value: object) -> object:
    """Return ``value``."""
    return value


def give_generator() -> object:
    """Return what no pickle can carry."""
    return (n for n in range(3))


def spin() -> None:
    """Never end, in Python."""
    while True:
        pass


def deaf() -> None:
    """Never end, and let no exception end it."""
    while True:
        with suppress(BaseException):
            time.sleep(60)


def run_for_ever() -> None:
    """Never end; start a process that ignores SIGTERM, again and again."""
    while True:
        subprocess.run(["sh", "-c", "trap '' TERM; sleep 0.2"], check=False)


def background(pids: str, *, session: bool, wait: bool) -> None:
    """Start a process that ignores SIGTERM, in a session of its own or not."""
    code = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({pids!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    subprocess.Popen([sys.executable, "-c", code], start_new_session=session)
    deadline = time.monotonic() + 30
    while not (Path(pids).exists() and Path(pids).read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if wait:
        time.sleep(600)


def die(how: str) -> None:
    """Say something, without flushing it, then end the process that runs this."""
    print("last words before", how)
    match how:
        case "segv":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit 0":
            os._exit(0)
        case "exit 3":
            os._exit(3)
        case "sys.exit":
            sys.exit(4)
        case "interrupt":
            raise KeyboardInterrupt
        case "background":
            background("pid", session=True, wait=False)
            os._exit(5)


def go_deep(levels: int = 45) -> None:
    """Fail far below, through lines that differ, so that Python prints all of them."""
    if levels == 0:
        raise ValueError("too deep")
    go_deep_by_another_name(levels - 1)


def go_deep_by_another_name(levels: int) -> None:
    go_deep(levels)


def spoil() -> None:
    """Change everything of the process that a task can change."""
    os.environ["SPOILED"] = "yes"
    os.environ.pop("HOME", None)
    sys.path.insert(0, "/spoiled")
    os.umask(0o777)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    os.chdir("/")


def look() -> dict[str, object]:
    """What a task finds of the process that it runs in."""
    mask = os.umask(0o022)
    os.umask(mask)
    print("can be heard")
    return {
        "pid": os.getpid(),
        "env": os.environ.get("SPOILED"),
        "home": "HOME" in os.environ,
        "path": "/spoiled" in sys.path,
        "mask": mask,
        "term": signal.getsignal(signal.SIGTERM) is signal.SIG_IGN,
        "cwd": Path.cwd().name,
    }


def speak() -> None:
    """Write to standard output and error at every level, in a known order."""
    print("python out")
    print("python err", file=sys.stderr)
    os.write(1, b"descriptor\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"c library")
    subprocess.run(["echo", "child"], check=True)


def list_folder() -> list[str]:
    """Everything in the task's folder."""
    return sorted(str(path) for path in Path().rglob("*"))


def damage(name: str) -> None:
    """Write to a file, whatever its permissions say."""
    Path(name).chmod(0o600)
    Path(name).write_text("damaged")

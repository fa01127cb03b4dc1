"""What the pools under test run; their workers import it without importing the tests."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from encamp.testing.waiting import until

PATIENCE = 60.0

_words: dict[int, str] = {}


def new_pool(kind: str, workers: int, **options: Any) -> Executor:
    """A pool of one of the kinds that are compared."""
    if kind == "threads":
        return ThreadPoolExecutor(workers, **options)
    if kind in ("forkserver", "spawn"):
        context = multiprocessing.get_context(kind)
        return ProcessPoolExecutor(workers, mp_context=context, **options)
    from encamp.executor import Executor as OnCluster

    return OnCluster("local", slots=workers, inline=kind == "inline", **options)


def add(a: Any, b: Any = 0, *, c: Any = 0) -> Any:
    return a + b + c


def same(value: Any) -> Any:
    return value


def named(self: Any, /, **names: Any) -> Any:
    return self, names


def touch(path: Path) -> str:
    path.touch()
    return path.name


def touch_late(path: Path) -> str:
    """Work that takes a while."""
    time.sleep(0.2)
    return touch(path)


def hold(gate: Path, value: Any = None) -> Any:
    """Say that it has begun, and wait until the gate is open."""
    started(gate).touch()
    until(gate.exists)
    return value


def started(gate: Path) -> Path:
    return gate.with_name(f"{gate.name}-started")


def fail(error: BaseException) -> NoReturn:
    raise error


def dig(depth: int) -> NoReturn:
    """Raise at some depth, so that a traceback has something to tell."""
    if not depth:
        raise LookupError("nothing down here")
    dig(depth - 1)
    raise AssertionError


def fail_for(number: int, bad: int) -> int:
    if number == bad:
        raise ValueError(number)
    return number


def hold_from(number: int, first: int, gate: Path) -> int:
    """A number; from ``first`` on only when the gate is open."""
    return number if number < first else hold(gate, number)


def same_later(number: int, seconds: float) -> int:
    """A number, after a while."""
    time.sleep(seconds)
    return number


def note(line: str, path: Path) -> str:
    with path.open("a") as file:
        file.write(f"{line}\n")
    return line


def lock_of_my_own() -> Any:
    """Something that cannot be pickled."""
    return threading.Lock()


class LocalError(Exception):
    """An error that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("it has a lock")
        self.lock = threading.Lock()


def fail_locally() -> NoReturn:
    raise LocalError


class HardToRead(Exception):
    """An error that can be pickled, and not read again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def fail_unreadably() -> NoReturn:
    raise HardToRead("this", "that")


class Cause(Exception):
    pass


def fail_for_a_reason() -> NoReturn:
    try:
        dig(1)
    except LookupError as exc:
        raise Cause("the reason is below") from exc


def crash(code: int = 3) -> NoReturn:
    sys.stdout.flush()
    os._exit(code)


def worker() -> tuple[int, int]:
    """Who runs this: a process and a thread."""
    return os.getpid(), threading.get_native_id()


def set_word(word: str, path: Path) -> None:
    """An initializer."""
    note(f"{worker()}", path)
    _words[threading.get_native_id()] = word


def get_word() -> tuple[tuple[int, int], str]:
    return worker(), _words[threading.get_native_id()]


def settle(folder: Path) -> None:
    """An initializer that changes its process, and starts another."""
    global _helper
    os.chdir(folder)
    os.environ["SETTLED"] = "settled"
    sys.path.insert(0, str(folder))
    os.umask(0o027)
    _helper = subprocess.Popen(["sleep", "100"])


def settled() -> tuple[str, str | None, bool, int, int]:
    """What it has changed, and the process that it has started, if that still runs."""
    mask = os.umask(0o077)
    os.umask(mask)
    folder = str(Path.cwd())
    helper = _helper.pid if _helper.poll() is None else 0
    return folder, os.environ.get("SETTLED"), folder in sys.path, mask, helper


def start_something() -> int:
    """A process that is left behind."""
    return subprocess.Popen(["sleep", "100"]).pid


def fail_to_start(path: Path) -> NoReturn:
    note("tried", path)
    raise OSError("no licence to be had")


def start_once(path: Path) -> None:
    """An initializer that fails in all processes but the first."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise OSError("no licence to be had") from None


def meet(mine: Path, other: Path) -> tuple[int, int]:
    """Ends only where two run at the same time; who ran this."""
    mine.touch()
    until(other.exists)
    return worker()


class Thing:
    """Something that can be referred to weakly."""


def hold_none(_: int) -> Thing:
    return Thing()

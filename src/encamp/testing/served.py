"""Objects that the suite publishes as services."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from encamp.services.collective_calls import gather
from encamp.services.proxy import Proxy
from encamp.services.server import current_server
from encamp.services.service import Service
from encamp.slot.current_task import current_task


class Counter:
    """Counts, sleeps, fails and dies on request."""

    def __init__(self, start: int = 0) -> None:
        self.count = start
        self.owner: object = None

    def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    def pid(self) -> tuple[str, int]:
        return current_task().host, os.getpid()

    def same(self, value: Any) -> Any:
        return value

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def wait_for(self, path: str) -> str:
        """Write the process id to a file, and wait until another file exists."""
        begun = Path(f"{path} begun")
        begun.with_suffix(".part").write_text(f"{os.getpid()} {current_task().host}")
        begun.with_suffix(".part").rename(begun)
        while not Path(path).exists():
            time.sleep(0.005)
        return path

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def odd(self, how: str) -> Any:
        """Raise or return something that cannot be pickled, or cannot be unpickled."""
        if how == "raise":
            raise Odd(threading.Lock())
        if how == "unreadable":
            return Unreadable()
        return threading.Lock()

    def die(self) -> None:
        os._exit(7)

    async def later(self, value: Any) -> Any:
        return value

    def alone(self, who: object) -> None:
        """Fail if another caller has it."""
        if self.owner not in (None, who):
            raise RuntimeError(f"{self.owner} has it, and {who} too")
        self.owner = who

    def left(self) -> None:
        self.owner = None

    def set_scale(self, scale: int) -> None:
        self.scale = scale

    def get_scale(self) -> int:
        return self.scale

    def scaled(self, number: int) -> int:
        self.count += 1
        return number * self.scale

    def write(self, name: str, text: str) -> str:
        Path(name).write_text(text, encoding="utf-8")
        return str(Path.cwd())

    def read_file(self, name: str) -> str:
        return Path(name).read_text(encoding="utf-8")

    def say(self, text: str) -> None:
        """Print something, and flush it."""
        print(text, flush=True)  # noqa: T201

    def receive(self) -> Any:
        """The queue of messages of the task itself."""
        got = current_task().receive(10)
        return None if got is None else got.message


class Odd(Exception):
    """Has something that cannot be pickled."""


class Unreadable:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("refused to be read")


class Saving(Counter):
    """Can save its state and restore it."""

    def checkpoint(self) -> dict[str, int]:
        return {"count": self.count}

    def restore(self, state: dict[str, int]) -> None:
        self.count = state["count"]


class Broken:
    """Cannot be created."""

    def __init__(self) -> None:
        raise OSError("the model is not there")


class Chain:
    """Calls other services."""

    def through(self, proxy: Proxy, value: Any) -> Any:
        """A value as another server returns it."""
        return proxy.same(value).get()

    def ask(self, proxies: list[Proxy], value: Any) -> Any:
        """Go through all of some proxies, one server asking the next."""
        if not proxies:
            return value
        return proxies[0].ask(proxies[1:], value).get()

    def any_of(self, service: Service) -> Any:
        """The answer of any server of a service."""
        return service.call("pid").get()

    def acquire(self, service: Service) -> Any:
        with service.acquire() as proxy:
            return proxy.pid().get()

    def pid(self) -> tuple[str, int]:
        return current_task().host, os.getpid()

    async def awaited(self, proxy: Proxy, value: Any) -> Any:
        return await proxy.same(value)


class Member:
    """Talks to the others of its group."""

    def rank(self) -> tuple[int, int]:
        me = current_server()
        return me.rank, me.size

    def ring(self, laps: int) -> int:
        """Pass a number around the group."""
        me = current_server()
        left, right = (me.rank - 1) % me.size, (me.rank + 1) % me.size
        number = 0
        for _ in range(laps):
            if me.rank == 0:
                me.send(right, number + 1)
                got = me.receive(20, left)
                assert got is not None  # noqa: S101
                number = got[1]
            else:
                got = me.receive(20, left)
                assert got is not None  # noqa: S101
                number = got[1] + 1
                me.send(right, number)
        return number

    def listen(self) -> Any:
        return current_server().receive(60)

    def die(self) -> None:
        os._exit(7)

    def pid(self) -> tuple[str, int]:
        return current_task().host, os.getpid()


def use(service: Service, calls: int) -> list[int]:
    """A task that acquires a server, and calls it."""
    with service.acquire() as proxy:
        return gather([proxy.add() for _ in range(calls)])


def call_passed(proxy: Proxy, calls: int) -> list[int]:
    """A task that calls a server which its spawner has."""
    return gather([proxy.add() for _ in range(calls)])


def hold(service: Service, path: str) -> None:
    """A task that never releases what it has."""
    proxy = service.acquire()
    proxy.add().get()
    Path(path).touch()
    time.sleep(600)
    proxy.release()

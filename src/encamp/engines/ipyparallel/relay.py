"""Tunnels through ipyparallel's controller, for agents and programs without another route.

The controller forwards control messages between clients and engines. An engine handles them in a
thread of its own, also while it runs a task. They have a type of encamp's own here, for which
ipyparallel has no public functions.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from encamp.engines.kit.begin import Order, Tunnels, begin
from encamp.engines.kit.mesh.addresses import address_towards
from encamp.engines.kit.mesh.tunnel import Said, Tunnel

_TYPE = "encamp_tunnel"
_WITHIN = 3.0
_AGAIN, _SILENCE = 5.0, 30.0
"""Seconds after which a program greets engines with tunnels in use again, and without any word from
it after which it has gone: nobody else would tell them."""
_here: _Engine | None = None
"""In an engine: its tunnels, while a program has agents there."""
_changing = threading.Lock()


def _content(run: str, number: int, said: Said) -> tuple[dict[str, Any], list[bytes]]:
    """A control message's content and buffers."""
    if isinstance(said, int):
        return {"run": run, "number": number, "taken": said}, []
    return {"run": run, "number": number}, [said]


def _said(message: Mapping[str, Any]) -> tuple[int, Said]:
    """The number of an agent, and what the other end of its tunnel says."""
    content = message["content"]
    if "taken" in content:
        return content["number"], int(content["taken"])
    return content["number"], b"".join(bytes(buffer) for buffer in message["buffers"])


# An engine


def begin_here(order: Order, agents: Mapping[int, int]) -> dict[int, str]:
    """Start agents beside this engine; see `begin`."""
    global _here
    from ipyparallel.engine.kernel import IPythonParallelKernel

    kernel = IPythonParallelKernel.instance()
    with _changing:
        _here = _here or _Engine(kernel)
        _here.runs.add(order.run)
    controller = urlsplit(getattr(kernel.parent, "registration_url", "")).hostname
    host = address_towards(controller or "127.0.0.1") or "127.0.0.1"
    return begin(order, agents, {}, tunnels=Tunnels(partial(_here.begun, order.run), [host]))


class _Engine:
    """An engine's ends of tunnels; for the event loop of its control messages."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._loop: asyncio.AbstractEventLoop = kernel.control_stream.io_loop.asyncio_loop
        self._programs: dict[str, tuple[list[bytes], Any]] = {}
        """By run: the route back to the program, and its greeting."""
        self._heard_at: dict[str, float] = {}
        self._waiting: dict[tuple[str, int], socket.socket] = {}
        """By run and number of the agent: tunnels in use whose program has not greeted yet."""
        self._tunnels: dict[tuple[str, int], tuple[Tunnel, asyncio.Task[None]]] = {}
        self.runs: set[str] = set()
        """Those that have agents here."""
        kernel.control_handlers[_TYPE] = self.heard

    def begun(self, run: str, number: int, near: socket.socket) -> None:
        """An agent has the other end of ``near``: carry its bytes once there are some."""
        near.setblocking(False)
        uses = partial(self._uses, run, number, near)
        self._loop.call_soon_threadsafe(self._loop.add_reader, near, uses)

    def _uses(self, run: str, number: int, near: socket.socket) -> None:
        self._loop.remove_reader(near)
        try:
            used = near.recv(1, socket.MSG_PEEK)
        except OSError:
            used = b""
        if not used:  # it has come another way, or has ended
            near.close()
        elif run in self._programs:
            self._carry(run, number, near)
        else:
            self._waiting[run, number] = near

    def _carry(self, run: str, number: int, near: socket.socket) -> None:
        tunnel = Tunnel(near, partial(self._say, run, number))
        carrying = self._loop.create_task(tunnel.carry())
        self._tunnels[run, number] = tunnel, carrying
        carrying.add_done_callback(lambda _: self._tunnels.pop((run, number), None))
        self._look(run)

    def _look(self, run: str) -> None:
        """End tunnels of a program that has gone."""
        if not any(of == run for of, _ in self._tunnels):
            return
        if self._loop.time() - self._heard_at[run] > _SILENCE:
            self._end(run)
        else:
            self._loop.call_later(_AGAIN, self._look, run)

    def _say(self, run: str, number: int, said: Said) -> None:
        if run in self._programs:
            route, greeting = self._programs[run]
            content, buffers = _content(run, number, said)
            self._kernel.session.send(
                self._kernel.control_stream, _TYPE, content, greeting, route, buffers
            )

    def heard(self, _stream: object, route: list[bytes], message: dict[str, Any]) -> None:
        """A program greets, says goodbye, or says something by a tunnel."""
        content = message["content"]
        run = content["run"]
        self._heard_at[run] = self._loop.time()
        if "number" in content:
            number, said = _said(message)
            if (run, number) in self._tunnels:
                self._tunnels[run, number][0].heard(said)
        elif content["greets"]:
            self._programs[run] = route, message
            for of, number in [key for key in self._waiting if key[0] == run]:
                self._carry(run, number, self._waiting.pop((of, number)))
        else:
            self._end(run)

    def _end(self, run: str) -> None:
        global _here
        self._programs.pop(run, None)
        self._heard_at.pop(run, None)
        for key in [key for key in self._waiting if key[0] == run]:
            self._waiting.pop(key).close()
        for key, (_, carrying) in list(self._tunnels.items()):
            if key[0] == run:
                carrying.cancel()
        with _changing:
            self.runs.discard(run)
            if not self.runs and _here is self:
                self._kernel.control_handlers.pop(_TYPE, None)
                _here = None


# The program


class Relay:
    """The program's ends of all tunnels of a run.

    ``come`` is given a socket for each agent that comes by one, in the client's thread.
    """

    def __init__(self, client: Any, run: str, come: Callable[[socket.socket], None]) -> None:
        self._client, self._run, self._come = client, run, come
        self._engines: dict[int, _Far] = {}

    def greet(self, place: int) -> None:
        """Tell an engine, which has begun agents, that the program can be reached by it."""
        if place not in self._engines:
            far = self._engines[place] = _Far(self._client, self._run, place, self._come)
            self._client._io_loop.add_callback(far.greet)

    def end(self, place: int) -> Future[None] | None:
        """An engine has gone: so have the agents that came through it."""
        far = self._engines.pop(place, None)
        loop = self._client._io_loop.asyncio_loop
        return None if far is None else asyncio.run_coroutine_threadsafe(far.end(), loop)

    def close(self) -> None:
        """End all tunnels, and have the engines forget them. Blocks for seconds at most."""
        wait([ending for place in list(self._engines) if (ending := self.end(place))], _WITHIN)


class _Far:
    """The program's ends of the tunnels through one engine; for the client's event loop.

    The client hands a reply to whatever has the request's entry in its table of futures. Here that
    is this object, and everything that the engine says is a reply to the greeting.
    """

    def __init__(
        self, client: Any, run: str, place: int, come: Callable[[socket.socket], None]
    ) -> None:
        self._client, self._run, self._come = client, run, come
        self._ident: bytes = client._build_targets(place)[0][0]
        self._greeting = client.session.msg(_TYPE, {"run": run, "greets": True})
        self._tunnels: dict[int, tuple[Tunnel, asyncio.Task[None]]] = {}
        self._again: asyncio.TimerHandle | None = None

    def greet(self) -> None:
        self._client._futures[self._greeting["header"]["msg_id"]] = self
        self._send(self._greeting, [])

    def set_result(self, message: Mapping[str, Any]) -> None:
        """The engine says something by a tunnel."""
        number, said = _said(message)
        if number not in self._tunnels and said and isinstance(said, bytes):
            near, far = socket.socketpair()
            tunnel = Tunnel(near, partial(self._say, number))
            self._tunnels[number] = tunnel, asyncio.create_task(tunnel.carry())
            self._come(far)
            if self._again is None:
                self._greet_again()
        if number in self._tunnels:
            self._tunnels[number][0].heard(said)

    def _greet_again(self) -> None:
        self._send(self._greeting, [])
        self._again = asyncio.get_running_loop().call_later(_AGAIN, self._greet_again)

    async def end(self) -> None:
        """End the tunnels, and have the engine forget the program."""
        self._client._futures.pop(self._greeting["header"]["msg_id"], None)
        if self._again is not None:
            self._again.cancel()
        carrying = [task for _, task in self._tunnels.values()]
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
        self._send(self._client.session.msg(_TYPE, {"run": self._run, "greets": False}), [])

    def _say(self, number: int, said: Said) -> None:
        content, buffers = _content(self._run, number, said)
        self._send(self._client.session.msg(_TYPE, content), buffers)

    def _send(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        with suppress(OSError):  # the client was closed
            self._client.session.send(
                self._client._control_stream, message, ident=self._ident, buffers=buffers
            )

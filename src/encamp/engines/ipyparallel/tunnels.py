"""Tunnels through ipyparallel's controller, for agents and programs without another route.

The controller forwards control messages between clients and engines. An engine handles these in a
separate thread, even while it runs a task. encamp's messages have their own type; ipyparallel has
no public functions for it.
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

from encamp.engines.kit.mesh.addresses import address_towards
from encamp.engines.kit.mesh.tunnel import Tunnel, TunnelData
from encamp.engines.kit.start_agents import Order, Tunnels, begin
from encamp.timeouts import ENDS

_TYPE = "encamp_tunnel"
_AGAIN, _SILENCE = 5.0, 30.0
"""Seconds between a program's greetings to engines with tunnels in use, and seconds without any
message of a program until an engine assumes that it has ended."""
_here: _EngineSide | None = None
"""In an engine's process, its side, as long as programs have agents there."""
_changing = threading.Lock()


def _content(run: str, number: int, data: TunnelData) -> tuple[dict[str, Any], list[bytes]]:
    """A control message's content and buffers."""
    if isinstance(data, int):
        return {"run": run, "number": number, "taken": data}, []
    return {"run": run, "number": number}, [data]


def _data_in(message: Mapping[str, Any]) -> tuple[int, TunnelData]:
    """The number of an agent, and what the other end of its tunnel has sent."""
    content = message["content"]
    if "taken" in content:
        return content["number"], int(content["taken"])
    return content["number"], b"".join(bytes(buffer) for buffer in message["buffers"])


# An engine


def begin_here(order: Order, agents: Mapping[int, int]) -> dict[int, str]:
    """Start agents beside this engine; see `start_agents.begin`."""
    global _here
    from ipyparallel.engine.kernel import IPythonParallelKernel

    kernel = IPythonParallelKernel.instance()
    with _changing:
        _here = _here or _EngineSide(kernel)
        _here.runs.add(order.run)
    controller = urlsplit(getattr(kernel.parent, "registration_url", "")).hostname
    host = address_towards(controller or "127.0.0.1") or "127.0.0.1"
    return begin(order, agents, {}, tunnels=Tunnels(partial(_here.begun, order.run), [host]))


class _EngineSide:
    """An engine's ends of its tunnels; for the event loop of its control messages."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._loop: asyncio.AbstractEventLoop = kernel.control_stream.io_loop.asyncio_loop
        self._programs: dict[str, tuple[list[bytes], Any]] = {}
        """By run, the route back to the program, and the program's greeting."""
        self._last_message: dict[str, float] = {}
        self._waiting: dict[tuple[str, int], socket.socket] = {}
        """By run and agent, sockets of tunnels in use whose program has not sent a greeting yet."""
        self._tunnels: dict[tuple[str, int], tuple[Tunnel, asyncio.Task[None]]] = {}
        self.runs: set[str] = set()
        """The runs that have agents here."""
        kernel.control_handlers[_TYPE] = self.receive

    def begun(self, run: str, number: int, near: socket.socket) -> None:
        """Carry the bytes of an agent, which has the other end of ``near``, once it sends some."""
        near.setblocking(False)
        uses = partial(self._uses, run, number, near)
        self._loop.call_soon_threadsafe(self._loop.add_reader, near, uses)

    def _uses(self, run: str, number: int, near: socket.socket) -> None:
        self._loop.remove_reader(near)
        try:
            used = near.recv(1, socket.MSG_PEEK)
        except OSError:
            used = b""
        if not used:  # the agent has connected over another route, or has ended
            near.close()
        elif run in self._programs:
            self._carry(run, number, near)
        else:
            self._waiting[run, number] = near

    def _carry(self, run: str, number: int, near: socket.socket) -> None:
        tunnel = Tunnel(near, partial(self._send_data, run, number))
        carrying = tunnel.begin()
        self._tunnels[run, number] = tunnel, carrying
        carrying.add_done_callback(lambda _: self._tunnels.pop((run, number), None))
        self._look(run)

    def _look(self, run: str) -> None:
        """End the tunnels of a run if its program is silent for too long; repeats this check."""
        if not any(of == run for of, _ in self._tunnels):
            return
        if self._loop.time() - self._last_message[run] > _SILENCE:
            self._end(run)
        else:
            self._loop.call_later(_AGAIN, self._look, run)

    def _send_data(self, run: str, number: int, data: TunnelData) -> None:
        if run in self._programs:
            route, greeting = self._programs[run]
            content, buffers = _content(run, number, data)
            self._kernel.session.send(
                self._kernel.control_stream, _TYPE, content, greeting, route, buffers
            )

    def receive(self, _stream: object, route: list[bytes], message: dict[str, Any]) -> None:
        """Handle a program's message: its greeting, its end, or data for a tunnel."""
        content = message["content"]
        run = content["run"]
        self._last_message[run] = self._loop.time()
        if "number" in content:
            number, data = _data_in(message)
            if (run, number) in self._tunnels:
                self._tunnels[run, number][0].receive(data)
        elif content["greets"]:
            self._programs[run] = route, message
            for of, number in [key for key in self._waiting if key[0] == run]:
                self._carry(run, number, self._waiting.pop((of, number)))
        else:
            self._end(run)

    def _end(self, run: str) -> None:
        global _here
        self._programs.pop(run, None)
        self._last_message.pop(run, None)
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

    ``accept`` is called in the client's thread with a socket for each agent that uses a tunnel.
    """

    def __init__(self, client: Any, run: str, accept: Callable[[socket.socket], None]) -> None:
        self._client, self._run, self._accept = client, run, accept
        self._engines: dict[int, _ProgramSide] = {}

    def greet(self, engine: int) -> None:
        """Tell an engine that has started agents how to reach the program."""
        if engine not in self._engines:
            side = self._engines[engine] = _ProgramSide(
                self._client, self._run, engine, self._accept
            )
            self._client._io_loop.add_callback(side.greet)

    def end(self, engine: int) -> Future[None] | None:
        """End the tunnels through an engine; None if there are none."""
        side = self._engines.pop(engine, None)
        loop = self._client._io_loop.asyncio_loop
        return None if side is None else asyncio.run_coroutine_threadsafe(side.end(), loop)

    def close(self) -> None:
        """End all tunnels, here and in the engines. Blocks for at most three seconds."""
        wait([ending for engine in list(self._engines) if (ending := self.end(engine))], ENDS)


class _ProgramSide:
    """The program's ends of the tunnels through one engine; for the client's event loop.

    The client passes a reply to `set_result` of the object that the request has in its table of
    futures. Here this is that object, and all messages of the engine are replies to the greeting.
    """

    def __init__(
        self, client: Any, run: str, engine: int, accept: Callable[[socket.socket], None]
    ) -> None:
        self._client, self._run, self._accept = client, run, accept
        self._ident: bytes = client._build_targets(engine)[0][0]
        self._greeting = client.session.msg(_TYPE, {"run": run, "greets": True})
        self._tunnels: dict[int, tuple[Tunnel, asyncio.Task[None]]] = {}
        self._again: asyncio.TimerHandle | None = None

    def greet(self) -> None:
        self._client._futures[self._greeting["header"]["msg_id"]] = self
        self._send(self._greeting, [])

    def set_result(self, message: Mapping[str, Any]) -> None:
        """Handle a message of the engine: data from a tunnel."""
        number, data = _data_in(message)
        if number not in self._tunnels and data and isinstance(data, bytes):
            near, far = socket.socketpair()
            tunnel = Tunnel(near, partial(self._send_data, number))
            self._tunnels[number] = tunnel, tunnel.begin()
            self._accept(far)
            if self._again is None:
                self._greet_again()
        if number in self._tunnels:
            self._tunnels[number][0].receive(data)

    def _greet_again(self) -> None:
        self._send(self._greeting, [])
        self._again = asyncio.get_running_loop().call_later(_AGAIN, self._greet_again)

    async def end(self) -> None:
        """End the tunnels here and in the engine."""
        self._client._futures.pop(self._greeting["header"]["msg_id"], None)
        if self._again is not None:
            self._again.cancel()
        carrying = [task for _, task in self._tunnels.values()]
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
        self._send(self._client.session.msg(_TYPE, {"run": self._run, "greets": False}), [])

    def _send_data(self, number: int, data: TunnelData) -> None:
        content, buffers = _content(self._run, number, data)
        self._send(self._client.session.msg(_TYPE, content), buffers)

    def _send(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        with suppress(OSError):  # the client was closed
            self._client.session.send(
                self._client._control_stream, message, ident=self._ident, buffers=buffers
            )

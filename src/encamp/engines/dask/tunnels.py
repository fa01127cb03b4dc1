"""Tunnels through Dask's scheduler, for agents and programs that cannot connect to each other.

Program and workers each have a Dask connection to the scheduler, which forwards what arrives. The
scheduler does not need encamp for this: the code that it runs is sent by value.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from platform import python_version
from typing import Any

import cloudpickle
from distributed.comm.core import connect

from encamp.engines.kit.mesh.tunnel import Tunnel, TunnelData
from encamp.errors import EngineFailed
from encamp.timeouts import GREETS
from encamp.version import same_minor

_waiting: dict[tuple[str, int], socket.socket] = {}
"""In a worker, by run and number of the agent: tunnels whose agents have begun to use them."""
_carried: set[asyncio.Task[None]] = set()


# The scheduler


def open_relay(name: str, dask_scheduler: Any) -> None:
    """Forward bytes between agents and the program (number 0); runs in the scheduler.

    Forwarding ends with the program's connection.
    """
    from distributed import Status

    ends: dict[int, Any] = {}

    async def relay(comm: Any, number: int) -> Any:
        comm.allow_offload = False  # offloading would change the order
        ends[number] = comm
        try:
            if number == 0:
                await comm.write("ready")
                while True:
                    to, data = await comm.read()
                    if to in ends:
                        await ends[to].write(data)
            else:
                while True:
                    data = await comm.read()
                    await ends[0].write((number, data))
        except (OSError, KeyError):
            pass
        finally:
            ends.pop(number, None)
            comm.abort()
            if number == 0:
                dask_scheduler.handlers.pop(name, None)
                for other in list(ends.values()):
                    other.abort()
            elif 0 in ends:
                with suppress(OSError):
                    await ends[0].write((number, b""))
        return Status.dont_reply

    dask_scheduler.handlers[name] = relay


class _ByValue:
    """A function of this module, pickled by value for a process without encamp."""

    def __init__(self, function: Callable[..., Any]) -> None:
        module = sys.modules[function.__module__]
        cloudpickle.register_pickle_by_value(module)
        try:
            self._pickled = cloudpickle.dumps(function)
        finally:
            cloudpickle.unregister_pickle_by_value(module)

    def __reduce__(self) -> Any:
        return cloudpickle.loads, (self._pickled,)


# A worker


def begun(worker: Any, run: str, number: int, near: socket.socket) -> None:
    """Report to the program when an agent begins to use the other end of ``near``.

    The report is an event of Dask: there is no tunnel yet, and usually none is needed.
    """
    near.setblocking(False)
    loop = asyncio.get_running_loop()
    loop.add_reader(near, _uses, worker, run, number, near)


def _uses(worker: Any, run: str, number: int, near: socket.socket) -> None:
    asyncio.get_running_loop().remove_reader(near)
    if not near.recv(1, socket.MSG_PEEK):  # the agent has another route, or has ended
        near.close()
        return
    _waiting[run, number] = near
    worker.log_event("all", {"action": "encamp-tunnel", "run": run, "worker": worker.address})


async def carry_here(run: str, name: str, dask_worker: Any) -> None:
    """Open the tunnels of a run's agents beside this worker that wait for one."""
    for of, number in list(_waiting):
        if of == run:
            near = _waiting.pop((of, number))
            task = asyncio.create_task(_carry(dask_worker, name, number, near))
            _carried.add(task)
            task.add_done_callback(_carried.discard)


async def _carry(worker: Any, name: str, number: int, near: socket.socket) -> None:
    with suppress(OSError), near:
        comm = await _connected(worker.scheduler.address, worker.security, "worker", name, number)
        speaker = _Speaker(comm)
        tunnel = Tunnel(near, speaker.send)
        carrying = tunnel.begin()
        listening = asyncio.create_task(_listen(comm, tunnel))
        await asyncio.wait([carrying, listening], return_when=asyncio.FIRST_COMPLETED)
        carrying.cancel()
        await asyncio.wait([carrying])
        await speaker.close()
        listening.cancel()


async def _listen(comm: Any, tunnel: Tunnel) -> None:
    with suppress(OSError):
        while True:
            tunnel.receive(await comm.read())


# The program


class Relay:
    """The program's side of all tunnels of a run.

    ``accept`` is called with a socket for each agent that uses a tunnel, in Dask's thread.
    """

    def __init__(self, client: Any, run: str, accept: Callable[[socket.socket], None]) -> None:
        self.name = f"encamp-relay-{run}"
        self._client, self._accept = client, accept
        self._tunnels: dict[int, Tunnel] = {}
        self._ready = threading.Event()
        self._serving: Any = None

    def open(self) -> bool:
        """Connect to the scheduler; returns whether it answers. Blocks for some seconds at most.

        Raises `EngineFailed` if the scheduler runs a different version of Python, whose process the
        relay's bytecode could crash.
        """
        if self._serving is None:
            self._check_python()
            self._client.run_on_scheduler(_ByValue(open_relay), self.name)
            loop = self._client.loop.asyncio_loop
            self._serving = asyncio.run_coroutine_threadsafe(self._serve(), loop)
        return self._ready.wait(GREETS)

    def _check_python(self) -> None:
        theirs, ours = self._client.run_on_scheduler(python_version), python_version()
        if not same_minor(theirs, ours):
            why = (
                "it cannot connect to this program, and cannot be relayed by Dask's scheduler, "
                f"which runs Python {theirs} instead of {ours}: use one version everywhere"
            )
            raise EngineFailed("dask", why)

    def close(self) -> None:
        """End all tunnels."""
        if self._serving is not None:
            self._serving.cancel()

    async def _serve(self) -> None:
        address, security = self._client.scheduler.address, self._client.security
        comm = await _connected(address, security, "client", self.name, 0)
        speaker, carried = _Speaker(comm), set[asyncio.Task[None]]()
        try:
            await comm.read()
            self._ready.set()
            while True:
                number, data = await comm.read()
                if data and number not in self._tunnels and isinstance(data, bytes):
                    near, far = socket.socketpair()
                    tunnel = Tunnel(near, partial(speaker.send_for, number))
                    self._tunnels[number] = tunnel
                    carried.add(tunnel.begin())
                    self._accept(far)
                if number in self._tunnels:
                    self._tunnels[number].receive(data)
        except OSError:
            pass  # the scheduler has ended
        finally:
            for task in carried:
                task.cancel()
            await asyncio.gather(*carried, return_exceptions=True)
            await speaker.close()


class _Speaker:
    """Writes to a connection of Dask in order, for callers that cannot wait."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._words: asyncio.Queue[Any] = asyncio.Queue()
        self._speaks = asyncio.create_task(self._speak())

    def send(self, data: TunnelData) -> None:
        self._words.put_nowait(data)

    def send_for(self, number: int, data: TunnelData) -> None:
        self._words.put_nowait((number, data))

    async def close(self) -> None:
        """Write what is queued, and close the connection."""
        self._words.put_nowait(None)
        with suppress(asyncio.CancelledError):
            await self._speaks
        with suppress(OSError):
            await self._comm.close()

    async def _speak(self) -> None:
        with suppress(OSError):
            while (words := await self._words.get()) is not None:
                await self._comm.write(words)


async def _connected(address: str, security: Any, role: str, name: str, number: int) -> Any:
    """A connection to the scheduler's relay. Raises OSError."""
    connects: Any = connect
    comm = await connects(address, **security.get_connection_args(role))
    comm.allow_offload = False
    await comm.write({"op": name, "number": number, "reply": False})
    return comm

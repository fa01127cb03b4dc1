"""An engine's end of tunnels through the controller."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from encamp.engines.ipyparallel import tunnels


class _Kernel:
    """An engine's kernel, as far as tunnels use it; what it sends is kept."""

    def __init__(self) -> None:
        self.control_handlers: dict[str, Any] = {}
        loop = SimpleNamespace(asyncio_loop=asyncio.get_running_loop())
        self.control_stream = SimpleNamespace(io_loop=loop)
        self.session = self
        self.sent: list[tuple[Any, ...]] = []

    def send(self, *said: Any) -> None:
        self.sent.append(said)


def _greets(engine: tunnels._EngineSide, run: str, *, greets: bool = True) -> None:
    engine.receive(None, [b"route"], {"content": {"run": run, "greets": greets}, "buffers": []})


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def _tunnel(engine: tunnels._EngineSide, run: str) -> socket.socket:
    near, far = socket.socketpair()
    engine.runs.add(run)
    engine.begun(run, 1, near)
    far.setblocking(False)
    return far


def test_a_tunnel_that_is_used_before_the_program_has_greeted_waits_for_it() -> None:
    async def main() -> None:
        kernel = _Kernel()
        engine = tunnels._EngineSide(kernel)
        far = _tunnel(engine, "run")
        far.send(b"hello")
        await _until(lambda: engine._waiting)
        assert kernel.sent == []
        _greets(engine, "run")
        await _until(lambda: kernel.sent)
        *_, content, _, route, buffers = kernel.sent[0]
        assert (content, route, buffers) == ({"run": "run", "number": 1}, [b"route"], [b"hello"])
        far.close()
        await _until(lambda: not engine._tunnels or len(kernel.sent) > 1)
        _greets(engine, "run", greets=False)
        await _until(lambda: not engine._tunnels)

    asyncio.run(main())


def test_a_program_that_greets_or_ends_affects_no_tunnels_of_others() -> None:
    async def main() -> None:
        kernel = _Kernel()
        engine = tunnels._EngineSide(kernel)
        runs = ("one", "other", "third")
        ends = {run: _tunnel(engine, run) for run in runs}
        for far in ends.values():
            far.send(b"x")
        await _until(lambda: len(engine._waiting) == 3)
        _greets(engine, "one")
        assert [run for run, _ in engine._tunnels] == ["one"]
        assert sorted(run for run, _ in engine._waiting) == ["other", "third"]
        await _until(lambda: kernel.sent)
        _greets(engine, "other", greets=False)
        async with asyncio.timeout(10):  # nobody will carry what it has sent, or sends
            with suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(ends["other"], 1) == b""
        assert [run for run, _ in engine._waiting] == ["third"]
        assert engine.runs == {"one", "third"}
        assert kernel.control_handlers
        for run in ("one", "third"):
            _greets(engine, run, greets=False)
        await _until(lambda: not engine._tunnels)
        assert engine.runs == set()
        for far in ends.values():
            far.close()

    asyncio.run(main())


def test_tunnels_end_after_silence_of_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnels, "_AGAIN", 0.02)
    monkeypatch.setattr(tunnels, "_SILENCE", 0.2)

    async def main() -> None:
        kernel = _Kernel()
        engine = tunnels._EngineSide(kernel)
        one, other = _tunnel(engine, "gone"), _tunnel(engine, "there")
        for run, far in (("gone", one), ("there", other)):
            _greets(engine, run)
            far.send(b"x")
        await _until(lambda: len(engine._tunnels) == 2)
        for _ in range(20):
            await asyncio.sleep(0.02)
            _greets(engine, "there")
        await _until(lambda: len(engine._tunnels) == 1)
        assert await asyncio.get_running_loop().sock_recv(one, 1) == b""
        assert engine.runs == {"there"}
        assert kernel.control_handlers
        _greets(engine, "there", greets=False)
        await _until(lambda: not engine._tunnels)
        one.close()
        other.close()

    asyncio.run(main())

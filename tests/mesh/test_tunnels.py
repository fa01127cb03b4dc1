"""Tunnels, and the order in which an agent tries its routes to the controller."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from meshed import Controller, Net

from encamp.engines.engine_interface import CONTROLLER, Frame, Joined, Left
from encamp.engines.kit.mesh import tunnel as tunnel_module
from encamp.engines.kit.mesh.agent import MeshAgent
from encamp.engines.kit.mesh.tunnel import Tunnel, TunnelData
from encamp.errors import EngineFailed
from encamp.testing.waiting import until

NOWHERE = ("127.0.0.1", 1)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    monkeypatch.setattr(Controller, "tunnel", "a pair of sockets")
    net = Net()
    yield net
    net.close()


def come(net: Net, hosts: list[str]) -> MeshAgent:
    """An agent that reaches nobody, and has a tunnel."""
    (expected,) = net.controller.expect("here", "here", [1])
    agent = MeshAgent(expected.number, net.identity, 1, os.getppid())
    near, far = socket.socketpair()
    far.setblocking(False)
    net.controller.tunnelled(near)
    reaching = threading.Thread(target=agent.reach, args=([NOWHERE], far, hosts))
    reaching.start()
    net.until(lambda: not reaching.is_alive())
    net.agents[agent.number], net.come[agent.number] = agent, []
    return agent


def test_a_tunnel_that_nobody_accepts_any_more_is_closed(net: Net) -> None:
    ends = [socket.socketpair() for _ in range(2)]
    net.controller.tunnelled(ends[0][0])
    net.controller.close()
    net.controller.tunnelled(ends[1][0])
    for near, far in ends:
        assert near.fileno() == -1
        assert far.recv(1) == b""
        far.close()


def links(end: MeshAgent | Controller) -> list[bool]:
    """Of each connection, whether it is a tunnel."""
    return [link.tunnelled for link in end._links.values()]


def test_unreachable_agent_uses_tunnel(net: Net) -> None:
    agent = come(net, [])
    agent.send(CONTROLLER, [b"#" * 1_000_000])
    net.controller.send(agent.number, [b"*" * 1_000_000])
    net.until(lambda: net.frames(CONTROLLER) and len(net.frames(agent.number)) == 2)
    assert net.come[CONTROLLER] == [
        Joined(agent.number, "a pair of sockets"),
        Frame(agent.number, [b"#" * 1_000_000]),
    ]
    assert links(agent) == links(net.controller) == [True]


def test_tunnel_is_encrypted_within_one_host(
    net: Net,
) -> None:
    """Another system carries it, perhaps over a network."""
    agent = come(net, [])
    agent.send(CONTROLLER, [b"plain" * 100])
    (end,) = net.controller._links.values()
    until(lambda: select.select([end], [], [], 0)[0])
    assert b"plain" not in end._raw.recv(1000, socket.MSG_PEEK)
    net.until(lambda: net.frames(CONTROLLER))


def test_an_agent_in_a_tunnel_is_dialled_first(net: Net) -> None:
    agent = come(net, ["127.0.0.1"])
    net.controller.send(agent.number, [b"hello"])
    net.until(lambda: len(net.frames(agent.number)) == 2)
    assert net.come[CONTROLLER] == [Joined(agent.number)]
    assert links(agent) == links(net.controller) == [False]


def test_agents_in_tunnels_reach_each_other(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise OSError("there is no route")

    monkeypatch.setattr(Controller, "dial", unreachable)
    one, other = come(net, ["127.0.0.1"]), come(net, ["127.0.0.1"])
    one.send(other.number, [b"hello"])
    net.until(lambda: len(net.frames(other.number)) == 2)
    assert sorted(links(one)) == sorted(links(other)) == [False, True]
    assert links(net.controller) == [True, True]


def test_end_of_tunnelled_agent_is_reported(net: Net) -> None:
    agent = come(net, [])
    closing = threading.Thread(target=net.agents.pop(agent.number).close)
    closing.start()
    net.until(lambda: isinstance(net.come[CONTROLLER][-1], Left))
    closing.join()
    assert net.controller.known == {}


def test_broken_tunnel_does_not_affect_others(net: Net) -> None:
    first = come(net, [])
    (expected,) = net.controller.expect("here", "here", [1])
    agent = MeshAgent(expected.number, net.identity, 1, os.getppid())
    near, far = socket.socketpair()
    net.controller.tunnelled(near)
    far.close()
    with pytest.raises(EngineFailed, match=r"cannot be reached at 127\.0\.0\.1:1"):
        agent.reach([NOWHERE])
    agent.close()
    net.until(lambda: not net.controller._strangers)
    first.send(CONTROLLER, [b"still there"])
    net.until(lambda: net.frames(CONTROLLER))


# What carries the bytes


def test_all_bytes_arrive_in_order_and_few_are_on_their_way() -> None:
    sent = os.urandom(3 * tunnel_module._WINDOW)

    async def main() -> tuple[bytes, bytes]:
        ours, theirs = socket.socketpair(), socket.socketpair()
        ends: list[Tunnel] = []
        loop = asyncio.get_running_loop()

        def say(to: int, said: TunnelData) -> None:
            loop.call_soon(ends[to].receive, said)

        ends += [Tunnel(ours[1], partial(say, 1)), Tunnel(theirs[1], partial(say, 0))]
        carrying = [end.begin() for end in ends]

        async def tell(near: socket.socket) -> None:
            near.setblocking(False)
            await loop.sock_sendall(near, sent)
            near.shutdown(socket.SHUT_WR)

        async def hear(near: socket.socket) -> bytes:
            found = []
            while data := await loop.sock_recv(near, 1 << 20):
                found.append(data)
            near.close()
            return b"".join(found)

        here, there = ours[0], theirs[0]
        telling = [asyncio.create_task(tell(near)) for near in (here, there)]
        while any(end._under_way < tunnel_module._WINDOW for end in ends):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        most = tunnel_module._WINDOW + tunnel_module.PIECE
        assert all(end._under_way <= most for end in ends)  # nobody reads
        one, other = await asyncio.gather(hear(here), hear(there))
        await asyncio.gather(*telling, *carrying)
        return one, other

    one, other = asyncio.run(main())
    assert one == other == sent


def test_few_pieces_are_on_their_way_however_small_they_are() -> None:
    async def main() -> int:
        ours, sent = socket.socketpair(), list[TunnelData]()
        tunnel = Tunnel(ours[1], sent.append)
        carrying = tunnel.begin()
        for _ in range(2 * tunnel_module._MOST):
            ours[0].send(b"x")
            await asyncio.sleep(0.0005)
        before = len(sent)
        tunnel.receive(1)
        while len(sent) == before:
            await asyncio.sleep(0.001)
        ours[0].close()
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)
        return before

    assert asyncio.run(main()) == tunnel_module._MOST


def test_a_tunnel_that_ends_before_it_has_begun_leaves_no_socket() -> None:
    async def main() -> tuple[int, bytes]:
        ours, theirs = socket.socketpair()
        carrying = Tunnel(theirs, lambda _: None).begin()
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)
        with ours:
            return theirs.fileno(), ours.recv(1)

    assert asyncio.run(main()) == (-1, b"")


def test_tunnel_close_reaches_other_end() -> None:
    async def main() -> bytes:
        ours, theirs = socket.socketpair(), socket.socketpair()
        ends: list[Tunnel] = []
        ends += [
            Tunnel(ours[1], lambda said: ends[1].receive(said)),
            Tunnel(theirs[1], lambda said: ends[0].receive(said)),
        ]
        carrying = asyncio.gather(*(end.begin() for end in ends))
        ours[0].close()
        theirs[0].setblocking(False)
        end = await asyncio.get_running_loop().sock_recv(theirs[0], 1)
        theirs[0].close()
        await carrying
        return end

    assert asyncio.run(main()) == b""

"""The mesh: authentication, the order of frames, and broken connections."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from meshed import ORDERS, Controller, Net

from encamp.engines.engine_interface import CONTROLLER, Frame, Joined, Left
from encamp.engines.kit.mesh import certificate as identity_module
from encamp.engines.kit.mesh import endpoint as mesh_module
from encamp.engines.kit.mesh import tls_connection as link_module
from encamp.engines.kit.mesh.certificate import Identity, new_identity
from encamp.errors import EngineFailed
from encamp.testing.waiting import PATIENCE, until


@pytest.fixture(params=["one host", "two hosts"])
def net(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """Ends on one host, which use TLS for the handshake only, and ends that always use it."""
    if request.param == "two hosts":
        monkeypatch.setattr(link_module, "on_one_host", lambda _: False)
    net = Net()
    yield net
    net.close()


two_hosts = pytest.mark.parametrize("net", ["two hosts"], indirect=True)
one_host = pytest.mark.parametrize("net", ["one host"], indirect=True)


def texts(frames: list[Frame]) -> list[tuple[int, bytes]]:
    return [(frame.sender, b"|".join(map(bytes, frame.parts))) for frame in frames]


def test_orders_are_the_first_that_an_agent_gets(net: Net) -> None:
    agent = net.join()
    net.controller.send(agent.number, [b"then", b"this"])
    net.until(lambda: len(net.frames(agent.number)) == 2)
    assert texts(net.frames(agent.number)) == [(0, ORDERS), (0, b"then|this")]
    assert net.come[CONTROLLER] == [Joined(agent.number)]


def test_frames_of_every_size_arrive_in_order_both_ways(net: Net) -> None:
    agent, sizes = net.join(), random.Random(1)
    sent: list[list[Any]] = []
    for number in range(300):
        count = sizes.choice([1, 1, 2, 5])
        parts = [
            bytes([number % 256]) * sizes.choice([0, 1, 100, 5000, 20_000, 300_000])
            for _ in range(count)
        ]
        parts[0] = b"#" + parts[0]
        sent.append(parts)
        net.controller.send(agent.number, parts)
        agent.send(CONTROLLER, parts)
    for number in (CONTROLLER, agent.number):
        first = int(number != CONTROLLER)
        net.until(lambda n=number, f=first: len(net.frames(n)) == len(sent) + f)  # type: ignore[misc]
        assert [list(map(bytes, f.parts)) for f in net.frames(number)[first:]] == sent


def test_unsendable_frames_are_queued_without_blocking(net: Net) -> None:
    agent = net.join()
    part = bytearray(os.urandom(64 << 20))
    net.controller.send(agent.number, [b"big", part])
    assert net.controller.sending
    net.until(lambda: len(net.frames(agent.number)) == 2)
    assert not net.controller.sending
    assert net.frames(agent.number)[1].parts[1] == part


def on_the_wire(net: Net, part: bytes) -> bytes:
    """What an agent's socket carries of a frame with this part."""
    agent = net.join()
    assert agent._peers[CONTROLLER].link is not None
    agent.send(CONTROLLER, [part])
    (other,) = net.controller._links.values()
    until(lambda: select.select([other], [], [], 0)[0])
    seen: bytes = other._raw.recv(1000, socket.MSG_PEEK)
    net.until(lambda: net.frames(CONTROLLER))
    return seen


@one_host
def test_within_a_host_frames_are_not_encrypted(net: Net) -> None:
    assert b"plain" * 100 in on_the_wire(net, b"#" + b"plain" * 100)


@one_host
def test_handshake_distinguishes_hosts(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_module, "_of_this_host", lambda: "encamp of another host")
    assert b"plain" not in on_the_wire(net, b"#" + b"plain" * 100)


@two_hosts
def test_half_a_record_of_tls_is_waited_for(net: Net) -> None:
    agent = net.join()
    link = agent._peers[CONTROLLER].link
    assert link is not None
    stream = link._tls
    stream.tls.write(b"eC\1\0" + (6).to_bytes(8, "little") + b"#whole")
    record = stream._outgoing.read()
    stream._raw.send(record[:20])
    (other,) = net.controller._links.values()
    until(lambda: select.select([other], [], [], 0)[0])
    net.until(lambda: not select.select([other], [], [], 0)[0])
    until(lambda: net.controller.patience() is None)  # it polls for a moment after arrivals
    stream._raw.send(record[20:])
    net.until(lambda: net.frames(CONTROLLER))
    assert texts(net.frames(CONTROLLER)) == [(agent.number, b"#whole")]


def test_two_agents_talk_without_the_controller(net: Net) -> None:
    first, second = net.join(), net.join()
    for number in range(100):
        first.send(second.number, [b"%d" % number])
        second.send(first.number, [b"%d" % number])
    for one, other in ((first, second), (second, first)):
        net.until(lambda n=one.number: len(net.frames(n)) == 101)  # type: ignore[misc]
        output = texts(net.frames(one.number))[1:]
        assert output == [(other.number, b"%d" % number) for number in range(100)]
    assert not any(peer.relayed for end in (first, second) for peer in end._peers.values())


def test_agents_that_do_not_reach_each_other_talk_by_the_controller(net: Net) -> None:
    first, second = net.join(), net.join()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nowhere = gone.getsockname()
    for agent in net.controller.known.values():
        agent.listens = [nowhere]
    for number in range(100):
        first.send(second.number, [b"%d" % number, b"x" * 1000])
        second.send(first.number, [b"%d" % number])
    net.until(lambda: len(net.frames(second.number)) == len(net.frames(first.number)) == 101)
    output = texts(net.frames(second.number))[1:]
    assert output == [(first.number, b"%d|" % number + b"x" * 1000) for number in range(100)]
    assert first._peers[second.number].relayed


def test_relayed_pair_stays_relayed(net: Net) -> None:
    """A connection that the other end opens later would overtake what is under way."""
    first, second = net.join(), net.join()
    net.controller.known[second.number].listens = []
    first.send(second.number, [b"by the controller"])
    net.until(lambda: len(net.frames(second.number)) == 2)
    second.send(first.number, [b"directly"])
    net.until(lambda: len(net.frames(first.number)) == 2)
    peer = first._peers[second.number]
    assert (peer.relayed, peer.link) == (True, None)
    first.send(second.number, [b"again"])
    net.until(lambda: len(net.frames(second.number)) == 3)


def test_the_controller_alone_passes_frames_on(net: Net) -> None:
    """Another agent could say that they are from somebody else."""
    first, second = net.join(), net.join()
    first.send(second.number, [b"hello"])
    net.until(lambda: len(net.frames(second.number)) == 2)
    link = first._peers[second.number].link
    assert link is not None
    relay = mesh_module.Relay(CONTROLLER, second.number)
    link.send([mesh_module.control(relay), b"as if from the controller"])
    first.send(second.number, [b"then"])
    net.until(lambda: len(net.frames(second.number)) == 3)
    assert [frame.sender for frame in net.frames(second.number)] == [0, first.number, first.number]


def test_an_agent_that_was_given_up_is_not_there_for_others(net: Net) -> None:
    first, second = net.join(), net.join()
    assert net.controller.total_slots == 2
    net.controller.give_up(second.number)
    assert net.controller.total_slots == 1
    first.send(second.number, [b"hello"])
    net.until(lambda: first._peers[second.number].gone)
    assert net.frames(second.number) == net.frames(second.number)[:1]


def test_end_of_abandoned_agent_uses_no_restart(net: Net) -> None:
    net.controller._restarts = 1
    numbers = []
    for given_up in (True, False, False):
        agent = net.join()
        if given_up:
            net.controller.give_up(agent.number)
        numbers.append(agent.number)
        gone = net.agents.pop(agent.number)
        gone._release_network()
        gone._starter.close()
        net.until(lambda: not net.controller.known)
    assert net.controller.again == numbers[:2]


def test_a_frame_to_an_agent_that_is_not_there_is_dropped(net: Net) -> None:
    agent = net.join()
    agent.send(77, [b"to nobody"])
    net.controller.send(77, [b"to nobody"])
    net.until(lambda: agent._peers[77].gone)
    assert not agent.sending


def test_agent_end_is_reported_after_its_last_frames(net: Net) -> None:
    agent = net.join()
    for number in range(50):
        agent.send(CONTROLLER, [b"%d" % number, b"x" * 100_000])
    closing = threading.Thread(target=net.agents.pop(agent.number).close)
    closing.start()
    net.until(lambda: isinstance(net.come[CONTROLLER][-1], Left))
    closing.join()
    assert [text[:2].strip(b"|") for _, text in texts(net.frames(CONTROLLER))] == [
        b"%d" % number for number in range(50)
    ]
    assert agent.number not in net.controller.known


def test_agents_learn_of_controller_end(net: Net) -> None:
    agent = net.join()
    net.controller._release_network()
    until(lambda: any(isinstance(arrival, Left) for arrival in agent.receive()))


def test_an_agent_that_another_has_lost_is_lost(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encamp.engines.kit.mesh.engine.LOST_BY_OTHERS", 0.1)
    first, second = net.join(), net.join()
    first.send(second.number, [b"hello"])
    net.until(lambda: len(net.frames(second.number)) == 2)
    link = first._peers[second.number].link
    assert link is not None
    link.finish()  # as if the network between these two were broken
    net.until(lambda: any(isinstance(arrival, Left) for arrival in net.come[CONTROLLER]))


def test_a_number_is_let_in_once(net: Net) -> None:
    agent = net.join()
    for number in (agent.number, agent.number + 1, CONTROLLER):
        with pytest.raises(EngineFailed, match="refused this agent"):
            net.join(number)
    assert net.come[CONTROLLER] == [Joined(agent.number)]


def test_frames_of_abandoned_agent_are_ignored(net: Net) -> None:
    agent = net.join()
    agent.send(CONTROLLER, [b"before"])
    net.until(lambda: net.frames(CONTROLLER))
    net.controller.give_up(agent.number)
    agent.send(CONTROLLER, [b"after"])
    net.controller.send(agent.number, [b"end"])
    net.until(lambda: len(net.frames(agent.number)) == 2)
    closing = threading.Thread(target=net.agents.pop(agent.number).close)
    closing.start()
    net.until(lambda: isinstance(net.come[CONTROLLER][-1], Left))
    closing.join()
    assert texts(net.frames(CONTROLLER)) == [(agent.number, b"before")]


# Strangers


def _garbage(address: tuple[str, int], _: Identity) -> socket.socket:
    stranger = socket.create_connection(address)
    stranger.sendall(random.Random(2).randbytes(5000))
    return stranger


def _http(address: tuple[str, int], _: Identity) -> socket.socket:
    stranger = socket.create_connection(address)
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return stranger


def _without_certificate(address: tuple[str, int], identity: Identity) -> socket.socket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return _with(context, address)


def _with_another_certificate(address: tuple[str, int], identity: Identity) -> socket.socket:
    context = new_identity("mesh").context(server=False)
    context.verify_mode = ssl.CERT_NONE
    return _with(context, address)


def _with_an_older_tls(address: tuple[str, int], identity: Identity) -> socket.socket:
    context = identity.context(server=False)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return _with(context, address)


def _with(context: ssl.SSLContext, address: tuple[str, int]) -> socket.socket:
    stranger = context.wrap_socket(socket.create_connection(address), do_handshake_on_connect=False)
    stranger.settimeout(PATIENCE)
    return stranger


def _speak(stranger: socket.socket) -> None:
    """Say what a friend would; until it is hung up on."""
    try:
        if isinstance(stranger, ssl.SSLSocket):
            stranger.do_handshake()
            greeting = mesh_module.control(mesh_module.Greeting(1, 0))
            stranger.sendall(b"eC\1\0" + len(greeting).to_bytes(8, "little") + greeting)
        while stranger.recv(1000):
            pass
    except OSError:
        pass


@pytest.mark.parametrize(
    "come",
    [_garbage, _http, _without_certificate, _with_another_certificate, _with_an_older_tls],
)
def test_strangers_are_hung_up_on_and_nothing_of_theirs_is_read(
    net: Net, come: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    net.controller.expect("here", "here", [1])
    taken: list[Any] = []
    monkeypatch.setattr(Controller, "_take", lambda *args: taken.append(args))
    stranger = come(net.controller.listens[0], net.identity)
    thread = threading.Thread(target=_speak, args=(stranger,))
    thread.start()
    net.until(lambda: not thread.is_alive())
    stranger.close()
    assert net.come[CONTROLLER] == taken == []
    assert not net.controller._links


def test_silent_connection_is_closed(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_module, "GREETS", 0.2)
    with socket.create_connection(net.controller.listens[0]) as stranger:
        net.until(lambda: net.controller._strangers)
        patience = net.controller.patience()
        assert patience is not None
        assert patience <= 0.2
        net.until(lambda: not net.controller._strangers)
        assert stranger.recv(1) == b""


def test_many_silent_connections_do_not_block_others(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_module, "GREETS", 1.0)
    monkeypatch.setattr(mesh_module, "_STRANGERS", 5)
    silent = [socket.create_connection(net.controller.listens[0]) for _ in range(20)]
    net.until(lambda: len(net.controller._strangers) == 5)
    assert net.controller.patience() != 0  # as those who wait to be let in are not looked at
    assert net.join().number == 1
    for stranger in silent:
        stranger.close()


def test_accepting_pauses_without_free_descriptors(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[socket.socket] = []

    def refuse(raw: socket.socket) -> socket.socket:
        tries.append(raw)
        raw.close()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(mesh_module, "_REST", 1000.0)
    with monkeypatch.context() as patched:
        patched.setattr(mesh_module, "prepared", refuse)
        address = net.controller.listens[0]
        with socket.create_connection(address), socket.create_connection(address):
            net.until(lambda: tries)
            for _ in range(5):
                net.turn()
            patience = net.controller.patience()
            assert patience is not None
            assert 900 < patience <= 1000
            assert len(tries) == 1
    net.controller._rests_until = 1e-9  # as if the time were over
    assert net.join().number == 1


def test_malformed_frame_closes_connection(net: Net) -> None:
    agent = net.join()
    link = agent._peers[CONTROLLER].link
    assert link is not None
    link._stream.send(b"this is no frame")
    net.until(lambda: isinstance(net.come[CONTROLLER][-1], Left))


def test_agent_with_other_identity_is_refused(net: Net) -> None:
    (expected,) = net.controller.expect("here", "here", [1])
    with pytest.raises(EngineFailed, match="refused this agent"):
        net.join(expected.number, new_identity("mesh"))
    assert net.come[CONTROLLER] == []


def test_handshake_leftovers_precede_plain_frames() -> None:
    """Also where the socket does not accept all of them at once."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        rest = os.urandom(1 << 20)
        stream = link_module._Plain(ours, b"before", memoryview(rest))
        with pytest.raises(BlockingIOError):
            stream.sendmsg([b"after"])
        got = b""
        while len(got) < len(rest):
            got += theirs.recv(1 << 16)
            stream.push()
        assert got == rest
        assert not stream.unsent
        assert stream.send(b"after") == 5
        assert theirs.recv(10) == b"after"
        theirs.send(b"later")
        assert [stream.recv(4), stream.recv(4), stream.recv(9)] == [b"befo", b"re", b"later"]


def test_only_the_certificate_itself_counts_not_one_that_it_has_signed() -> None:
    ours, other = new_identity("mesh"), new_identity("mesh")
    for shown, good in ((ours, True), (other, False)):
        der = ssl.PEM_cert_to_DER_cert(shown.certificate)
        peer: Any = SimpleNamespace(getpeercert=lambda _, der=der: der)
        assert ours.shown_by(peer) == good


def test_other_certificate_is_refused(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Identity, "shown_by", lambda *_: False)
    with pytest.raises(EngineFailed):
        net.join()
    assert net.come[CONTROLLER] == []


def test_the_key_is_shown_nowhere() -> None:
    identity = new_identity("mesh")
    controller = Controller()
    order = controller.order([("127.0.0.1", 1)])
    controller._release_network()
    for shown in (repr(identity), str(identity), repr(order), str(order)):
        assert "PRIVATE" not in shown


def test_a_fork_keeps_no_connection(net: Net) -> None:
    agent = net.join()
    child = os.fork()
    if child == 0:
        try:
            left = [fd for fd in agent._links if _open(fd)]
            os._exit(len(left))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    agent.send(CONTROLLER, [b"still there"])
    net.until(lambda: net.frames(CONTROLLER))


def _open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_polling_continues_only_while_answers_arrive_quickly(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(mesh_module.time, "monotonic", lambda: now[0])
    mesh = net.controller

    def polls_after(pause: float) -> bool:
        """Whether it polls after an arrival so many seconds after the last one."""
        now[0] += pause
        mesh._note_arrival()
        return mesh.patience() == 0

    assert all(polls_after(0.0001) for _ in range(20))
    now[0] += 0.0003
    assert mesh.patience() is None
    assert [polls_after(1.0) for _ in range(5)].count(True) == 3
    assert not any(polls_after(0.0001) for _ in range(60))
    assert any(polls_after(0.0001) for _ in range(5))


def test_patience_is_over_when_something_has_to_be_looked_at(net: Net) -> None:
    agent = net.join()
    net.until(lambda: net.controller.patience() is None)  # it polls for a moment after arrivals
    net.controller.call_soon(lambda: None)
    assert net.controller.patience() == 0
    net.until(lambda: net.controller.patience() is None)
    net.until(lambda: agent.patience() is None)

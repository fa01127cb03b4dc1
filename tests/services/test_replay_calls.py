"""Calls that a server's successor repeats, with their buffers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from encamp.services.letters import CALL, Calls, Saved, ServiceCall
from encamp.services.registry.replay_calls import Replays
from encamp.services.registry.server_record import ServerRecord


class Registry:
    """As much of a registry as replays use: one server, whose task is 101."""

    def __init__(self) -> None:
        self.server = ServerRecord(1, SimpleNamespace(id=101), ready=True)  # type: ignore[arg-type]
        self.by_server = {1: (None, self.server)}
        self.by_task = {101: (None, self.server)}
        self.posted: list[tuple[int, int, list[int], list[bytes]]] = []
        self.replays = Replays(self, self)  # type: ignore[arg-type]

    def post(self, task: int, letter: Calls, buffers: list[Any]) -> None:
        numbers = [call[0] for call in letter.calls]
        self.posted.append((task, letter.client, numbers, list(map(bytes, buffers))))

    def keep(self, _server: int, serial: int, _: Any, kept: Callable[[int], None]) -> None:
        kept(serial)

    def relay(self, client: int, calls: list[ServiceCall], *buffers: bytes) -> None:
        self.replays.relay(client, Calls(1, calls, client), list(buffers))

    def succeed(self) -> None:
        """Its task has died, and another one is ready."""
        self.server.given, self.server.task = 0, SimpleNamespace(id=102)  # type: ignore[assignment]
        self.posted.clear()
        self.replays.replay(self.server)


def _call(number: int, buffers: int = 0) -> ServiceCall:
    return number, 9, CALL, "f", b"", buffers


def test_repeated_calls_keep_buffers_and_clients() -> None:
    registry = Registry()
    registry.relay(5, [_call(1, 1), _call(2, 2)], b"a", b"b", b"c")
    registry.relay(6, [_call(1)])
    registry.relay(5, [_call(3, 1)], b"d")
    assert registry.posted == [
        (101, 5, [1, 2], [b"a", b"b", b"c"]),
        (101, 6, [1], []),
        (101, 5, [3], [b"d"]),
    ]
    registry.replays.saved(101, Saved(1, 1), [])  # the state includes the first call
    registry.succeed()
    assert registry.posted == [
        (102, 5, [2], [b"b", b"c"]),
        (102, 6, [1], []),
        (102, 5, [3], [b"d"]),
    ]


def test_each_call_is_sent_exactly_once_after_saved_state() -> None:
    registry = Registry()
    registry.relay(5, [_call(1), _call(2), _call(3)])
    registry.replays.saved(101, Saved(1, 2), [])
    registry.relay(5, [_call(4), _call(5)])
    assert [numbers for _, _, numbers, _ in registry.posted] == [[1, 2, 3], [4, 5]]


def test_calls_wait_for_a_server_that_is_not_ready() -> None:
    registry = Registry()
    registry.server.ready = False
    registry.relay(5, [_call(1)])
    assert registry.posted == []
    registry.succeed()
    assert registry.posted == [(102, 5, [1], [])]


def test_a_state_of_a_server_that_was_replaced_meanwhile_drops_no_call() -> None:
    registry = Registry()
    registry.relay(5, [_call(1)])
    registry.succeed()
    registry.replays.saved(101, Saved(1, 1), [])
    registry.succeed()
    assert registry.posted == [(102, 5, [1], [])]

"""The program of agents in tests of the MPI engine: it does what frames from anybody ask for.

Also what tests on both ends of the network use to drive it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from encamp.engines.engine_interface import CONTROLLER, Arrival, Endpoint, Frame, Left
from encamp.engines.mpi import engine as mpi
from encamp.wire.frames import Parts


def arrivals(end: Endpoint, within: float) -> Iterator[Arrival]:
    """What comes at an end, for so many seconds at most."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        come = end.receive()
        yield from come
        if not come:
            pause(end, deadline)


def pause(end: Endpoint, deadline: float) -> None:
    """Sleep as long as an end allows it."""
    patience = end.patience()
    left = max(0.0, deadline - time.monotonic())
    select.select(end.descriptors(), [], [], left if patience is None else min(patience, left))


def take(end: Endpoint, count: int, within: float = 60.0) -> list[Arrival]:
    """The next ``count`` arrivals. Raises TimeoutError if they do not come."""
    come: list[Arrival] = []
    if count:
        for arrival in arrivals(end, within):
            come.append(arrival)
            if len(come) == count:
                break
    if len(come) != count:
        raise TimeoutError(f"only {len(come)} of {count} came: {come[:5]}")
    return come


def ask(end: Endpoint, agent: int, what: str, *parts: bytes, **facts: object) -> None:
    """Ask an agent for something."""
    end.send(agent, [json.dumps({"what": what, **facts}).encode(), *parts])


def facts_of(end: Endpoint, agent: int) -> dict[str, Any]:
    """What an agent knows about itself."""
    ask(end, agent, "facts")
    (frame,) = take(end, 1)
    assert isinstance(frame, Frame)
    facts: dict[str, Any] = json.loads(bytes(frame.parts[0]))
    return facts


def echoed(end: Endpoint, agent: int, *parts: bytes) -> bool:
    """Whether an agent sends back what it is sent."""
    ask(end, agent, "echo", *parts)
    (frame,) = take(end, 1)
    assert isinstance(frame, Frame)
    return frame.sender == agent and list(map(bytes, frame.parts)) == list(parts)


def serve(end: Endpoint) -> None:
    """Do what is asked for until the controller is gone."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        for arrival in end.receive():
            if isinstance(arrival, Left) and arrival.agent == CONTROLLER:
                return
            if isinstance(arrival, Frame):
                _do(end, arrival)
        pause(end, deadline)
        _turns[0] += 1


def _do(end: Endpoint, frame: Frame) -> None:
    if frame.parts == [b"orders"]:
        return
    if bytes(frame.parts[0][:1]) != b"{":
        _got.append((frame.sender, int(bytes(frame.parts[-2])), len(frame.parts[-1])))
        return
    facts = json.loads(bytes(frame.parts[0]))
    _DEEDS[facts.pop("what")](end, frame.sender, frame.parts[1:], **facts)


_turns = [0]
"""How often this agent looked for something new."""
_got: list[tuple[int, int, int]] = []
"""Sender, number and size of the frames that asked for nothing."""


def _echo(end: Endpoint, sender: int, parts: Parts) -> None:
    end.send(sender, parts)


def _flood(end: Endpoint, sender: int, parts: Parts, to: list[int], sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        for other in to:
            end.send(other, [b"%d" % end.number, b"%d" % number, bytes(size)])


def _facts(end: Endpoint, sender: int, parts: Parts) -> None:
    facts: dict[str, object] = {
        "pid": os.getpid(),
        "environment": sorted(os.environ),
    }
    facts |= {"got": _got, "turns": _turns[0]}
    end.send(sender, [json.dumps(facts).encode()])


def _die(end: Endpoint, sender: int, parts: Parts, how: str) -> None:
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.Signals[how])


def _hang(end: Endpoint, sender: int, parts: Parts) -> None:
    while True:
        signal.pause()


def _leave(end: Endpoint, sender: int, parts: Parts) -> None:
    end.close()
    sys.exit()


_DEEDS: dict[str, Callable[..., None]] = {
    "echo": _echo,
    "flood": _flood,
    "facts": _facts,
    "die": _die,
    "hang": _hang,
    "leave": _leave,
}


def main(arguments: list[str]) -> None:
    """Like `encamp.agent`: join, and serve unless this is the gateway."""
    end = mpi.join(arguments[1:])
    if end is not None:
        serve(end)
        end.close()


if __name__ == "__main__":
    main(sys.argv[1:])

"""The last saved state of a server, and how many calls it includes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from encamp.services.registry.saved_states import SavedStates


class Disk:
    """A disk thread that works only when it is told to."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], object], Callable[..., object]]] = []

    def run(self, call: Callable[[], object], then: Callable[..., object]) -> None:
        self._waiting.append((call, then))

    def work(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call, then in waiting:
            then(call(), None)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def states(disk: Disk) -> Iterator[SavedStates]:
    states = SavedStates(disk)  # type: ignore[arg-type]
    yield states
    states.close()


def _files(states: SavedStates) -> list[Path]:
    assert states._folder is not None
    return [path for path in states._folder.path.iterdir() if path.is_file()]


def test_a_state_replaces_the_one_before_when_it_is_written(
    states: SavedStates, disk: Disk
) -> None:
    included: list[int] = []
    for serial in (3, 7):
        states.keep(1, serial, [b"after %d" % serial], included.append)
    assert included == []
    assert states.since(1, 9) == 9
    disk.work()
    assert included == [3, 4]
    assert states.since(1, 9) == 2
    assert len(_files(states)) == 1
    saved = states.take(1)
    assert saved is not None
    assert pickle.loads(states.adopt(2, saved) or b"") == [b"after 7"]
    assert states.take(1) is None


@pytest.mark.parametrize("successor", [1, 2])
def test_a_successor_counts_its_own_calls(states: SavedStates, disk: Disk, successor: int) -> None:
    """With ``at_least_once`` it has its predecessor's number, otherwise another one."""
    included: list[int] = []
    states.keep(1, 10, [b"first"], included.append)
    disk.work()
    saved = states.take(1)
    assert saved is not None
    assert pickle.loads(states.adopt(successor, saved) or b"") == [b"first"]
    assert states.since(successor, 12) == 12
    states.keep(successor, 10, [b"second"], included.append)
    disk.work()
    assert included == [10, 10]
    assert states.since(successor, 12) == 2
    saved = states.take(successor)
    assert saved is not None
    assert pickle.loads(states.adopt(3, saved) or b"") == [b"second"]
    assert len(_files(states)) == 1


def test_needed_state_is_written_at_once_and_only_once(states: SavedStates, disk: Disk) -> None:
    included: list[int] = []
    states.keep(1, 2, [b"a"], included.append)
    states.settle(1)
    assert included == [2]
    assert states.take(1) is not None
    disk.work()
    assert included == [2]
    assert states.take(1) is None


def test_failed_state_write_keeps_previous_state(
    states: SavedStates, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    included: list[int] = []
    states.keep(1, 2, [b"a"], included.append)
    disk.work()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pickle, "dump", full)
        states.keep(1, 5, [b"b"], included.append)
        disk.work()
    assert included == [2]
    saved = states.take(1)
    assert saved is not None
    assert pickle.loads(states.adopt(1, saved) or b"") == [b"a"]


def test_a_state_that_has_vanished_is_none(states: SavedStates, disk: Disk) -> None:
    states.keep(1, 2, [b"a"], lambda _: None)
    disk.work()
    saved = states.take(1)
    assert saved is not None
    saved.path.unlink()
    assert states.adopt(2, saved) is None

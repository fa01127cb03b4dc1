"""Errors are created from facts, by position or by name, and survive pickling."""

from __future__ import annotations

import pickle
import socket

import pytest

from encamp import errors
from encamp.errors import DiskFull, EncampError, NoMatch, NotCallable, TaskLost


def kinds() -> list[type[EncampError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, EncampError)]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_travels_with_its_facts(kind: type[EncampError]) -> None:
    error = kind(**{name: f"some {name}" for name in kind._facts})
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is kind
    assert vars(there) == vars(error) == {name: f"some {name}" for name in kind._facts}


def test_facts_are_given_by_place_or_name_and_some_have_a_value_of_their_own() -> None:
    lost = TaskLost("t", "h", exit_code=-9)
    assert (lost.task, lost.host, lost.exit_code, lost.why) == ("t", "h", -9, "")
    assert repr(lost) == "TaskLost(task='t', host='h', exit_code=-9, why='')"
    assert DiskFull("p", 2, 1).host == socket.gethostname()
    assert DiskFull("p", 2, 1, "h").host == "h"
    assert NotCallable("w", "y", use="z").use == "z"


def test_a_disk_with_room_for_bytes_may_be_full_of_files() -> None:
    assert "is full: 2 B are needed, 1 B are free" in str(DiskFull("p", 2, 1))
    assert "is full: 2 B are needed, 1.0 MiB are free" in str(DiskFull("p", 2, 1 << 20))
    assert "is full: it has no free inodes, or a quota" in str(DiskFull("p", 2, 1 << 30))


def test_wrong_facts_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="'folder'"):
        NoMatch("*.txt")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'folders'"):
        NoMatch("*.txt", "here", folders="there")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="too many"):
        NoMatch("*.txt", "here", True, "t", "but", "there")  # type: ignore[call-arg]


def test_an_error_is_changed_by_its_facts() -> None:
    first = TaskLost("", "h", -9, "why")
    assert vars(first.with_facts(task="t")) == vars(TaskLost("t", "h", -9, "why"))
    assert first.task == ""


def test_error_without_facts_shows_its_message() -> None:
    assert str(errors.StorageError("it rains")) == "it rains"
    assert repr(errors.StorageError("it rains")) == "StorageError('it rains')"

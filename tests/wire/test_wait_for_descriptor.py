"""Waiting for descriptors of any number."""

from __future__ import annotations

import fcntl
import os
import re
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import encamp
from encamp.wire.wait_for_descriptor import readable, writable

SELECT = 1024
"""The numbers from here on are too large for `select.select`."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe, with large numbers."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2 * SELECT), before[1]))
    small = os.pipe()
    large = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SELECT + 100) for fd in small]
    try:
        for fd in small:
            os.close(fd)
        yield large[0], large[1]
    finally:
        for fd in large:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_readiness_is_seen_for_any_descriptor_number(pipe: tuple[int, int]) -> None:
    end, start = pipe
    assert not readable(end, 0)
    assert writable(start, None)
    os.write(start, b"x")
    assert readable(end, None)
    os.set_blocking(start, False)
    with suppress(BlockingIOError):
        while os.write(start, bytes(1 << 16)):
            pass
    assert not writable(start, 0.001)
    assert readable(end, -1)


def test_only_processes_of_encamps_own_use_select() -> None:
    """A user's program, or a task, may have more open files than it can take."""
    source = Path(encamp.__file__).parent
    found = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if re.search(r"select\.select\(", path.read_text())
    }
    own = {
        "engines/pvm/machine_owner.py",
        "engines/mpi/launched_engine.py",
        "engines/mpi/leftovers.py",
    }
    assert found == own

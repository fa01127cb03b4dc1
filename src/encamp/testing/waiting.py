"""Ways for a test to wait for what others bring about."""

# ruff: noqa: S101

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

PATIENCE = 30.0
"""Seconds after which something that should happen is taken not to happen."""


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something, and fail if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True

"""Ways for a test to wait for other processes, and to inspect them."""

# ruff: noqa: S101

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

PATIENCE = 30.0
"""Seconds after which a wait fails."""
_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
"""Seconds between two checks."""


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until something happens; fails if it does not in time."""
    began = time.monotonic()
    deadline = began + seconds
    while not condition():
        now = time.monotonic()
        assert now < deadline, f"it did not happen within {seconds:g} s"
        # If a check takes long, most of the time is left to what is waited for.
        time.sleep(min(max(_PAUSE, 4 * (now - began)), _LONGEST_PAUSE))
        began = time.monotonic()


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def children_with(word: str, pid: int | None = None) -> list[psutil.Process]:
    """Living children of a process, by default this one, with a word in their command lines."""
    try:
        children = psutil.Process(pid or os.getpid()).children()
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if _has(child, word)]


def _has(process: psutil.Process, word: str) -> bool:
    try:
        return any(word in argument for argument in process.cmdline())
    except psutil.NoSuchProcess:  # ended in the meantime
        return False

"""Finds out in which worker of which executor this code runs.

It only looks at loaded modules, and imports no library of an executor.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
from contextlib import suppress


def worker_name() -> str:
    """The worker's name for the executor's user: an engine's number, a worker's name, a process."""
    for find in (_dask, _ipyparallel):
        name = find()
        if name is not None:
            return name
    process = multiprocessing.current_process()
    if process.name != "MainProcess":
        return process.name
    thread = threading.current_thread()
    return "main" if thread is threading.main_thread() else thread.name


def _dask() -> str | None:
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    with suppress(ValueError, AttributeError):
        return f"dask worker {distributed.get_worker().name}"
    return None


def _ipyparallel() -> str | None:
    if "ipyparallel.engine" not in sys.modules:
        return None
    with suppress(Exception):
        from traitlets.config import Application

        if Application.initialized():
            number = getattr(Application.instance(), "id", None)
            return None if number is None else f"engine {number}"
    return None

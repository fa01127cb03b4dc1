"""`sandbox` and `sandboxed`: a private folder for any block or function in any process."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from secrets import token_hex
from typing import ParamSpec, TypeVar

from encamp.storage.disk.path_to_destination import named
from encamp.storage.exit_on_signal import signals_exit
from encamp.storage.folder_life import FolderLife, FolderPlan
from encamp.storage.inputs.mirror import MirrorMap, as_mirrors, plan
from encamp.storage.local_leftovers import reclaim_leftovers
from encamp.storage.outputs.deliveries import deliver_one
from encamp.storage.outputs.patterns import OutputMap, as_outputs, check_outputs
from encamp.storage.real_paths import current_folder
from encamp.storage.urls import folder_name

P = ParamSpec("P")
R = TypeVar("R")

_current: ContextVar[Path | None] = ContextVar("encamp_sandbox", default=None)
_reclaimed = threading.Event()


def current_sandbox() -> Path:
    """The folder of the sandbox that this code runs in; RuntimeError outside one."""
    folder = _current.get()
    if folder is None:
        raise RuntimeError("no sandbox is open here; use encamp.sandbox(...) or @encamp.sandboxed")
    return folder


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Make `current_sandbox` return ``folder``."""
    token = _current.set(folder)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def sandbox(
    mirror: MirrorMap = (),
    outputs: OutputMap = (),
    *,
    to: str | Path | None = None,
    name: str = "sandbox",
    keep: bool = False,
    persistent: bool = False,
    renew: bool = False,
    on_failure: OutputMap = (),
) -> Iterator[Path]:
    """A private folder on this host's own disk, for a ``with`` block.

    ``mirror`` names the files to put in it: each is fetched into this host's cache once, and placed
    in the folder in the cheapest safe way. When the block ends normally, the files that ``outputs``
    matches are published to their destination folders (relative ones below ``to``, by default the
    current folder); then the folder is removed. It is also removed when the block raises an
    exception, on Ctrl-C and on signals that end a program, such as SIGTERM and SIGHUP (in the main
    thread). The next sandbox on this host removes the folders of killed processes. ``keep`` moves
    the folder to ``kept`` in the local storage instead.

    ``on_failure`` names files to publish, if they exist, when the block raises an exception.

    A ``persistent`` folder is kept until this process ends. The next block with the same ``name``
    gets it as the last block left it, and nothing is mirrored again. A changed mirror map, changed
    inputs or ``renew=True`` create a new folder.

    The current folder of the process does not change: the block must use paths that start with the
    folder that it gets. Blocks while files are copied. Raises the errors of `Mirror` and `Output`.
    """
    base = current_folder()
    destination = named(base, to or ".")
    wanted = as_outputs(outputs)
    rescued = as_outputs(on_failure)
    for outputs_then in (wanted, rescued):
        check_outputs(outputs_then, destination)
    items = tuple(plan(as_mirrors(mirror), base))
    kept_as = name if persistent else None
    files = FolderPlan(name, token_hex(8), items, wanted, rescued, destination, persistent=kept_as)
    _reclaim_once()
    with signals_exit(), FolderLife(files, renew=renew, keeps=keep) as life:
        try:
            life.place()
            with inside(life.folder):
                yield life.folder
            deliver_one(life.stage())
        except BaseException:
            deliver_one(life.rescue(), lenient=True)
            raise


def _reclaim_once() -> None:
    """Remove what dead processes left, once per process."""
    if not _reclaimed.is_set():
        _reclaimed.set()
        reclaim_leftovers()


_LATE = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)


def sandboxed(
    mirror: MirrorMap | Callable[P, MirrorMap] = (),
    outputs: OutputMap | Callable[P, OutputMap] = (),
    *,
    to: str | Path | None = None,
    chdir: bool = True,
    keep: bool = False,
    persistent: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: every call of the function runs in its own sandbox, as the current folder.

    ``mirror`` and ``outputs`` may be functions of the call's arguments. The decorated function
    works with any executor. The current folder belongs to the whole process, so outside the main
    thread (a thread pool) a call raises RuntimeError unless ``chdir=False``; the function then
    gets its folder from `current_sandbox`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if not callable(function):
            raise TypeError("write @encamp.sandboxed(...) with parentheses")
        if any(is_late(function) for is_late in _LATE):
            raise TypeError(
                "the folder would be removed before a coroutine or generator runs; "
                "use `with encamp.sandbox(...)` inside it, or asyncio.run in a plain function"
            )

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if chdir:
                _check_main_thread()
            wanted = mirror(*args, **kwargs) if callable(mirror) else mirror
            made = outputs(*args, **kwargs) if callable(outputs) else outputs
            destination = current_folder() / folder_name(to or ".")
            label = function.__name__
            with (
                sandbox(
                    wanted,
                    made,
                    to=destination,
                    name=label,
                    keep=keep,
                    persistent=persistent,
                ) as folder,
                _current_folder(folder if chdir else None),
            ):
                return function(*args, **kwargs)

        return run

    return decorate


def _check_main_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "a thread cannot have its own current folder; use @encamp.sandboxed(chdir=False) "
            "and encamp.current_sandbox(), or an executor of processes"
        )


@contextmanager
def _current_folder(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)

"""The whole life of one private folder, for any function in any process."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import ParamSpec, TypeVar

from encamp.errors import EncampError
from encamp.storage.disk.trusted import named
from encamp.storage.folder import Sandbox
from encamp.storage.inputs.mirror import MirrorMap, as_mirrors, plan
from encamp.storage.leftovers import reclaim_leftovers
from encamp.storage.outputs.patterns import Output, OutputMap, as_outputs, check_outputs
from encamp.storage.outputs.publish import publish
from encamp.storage.outputs.stage import stage, unstage
from encamp.storage.persistent import give_back, persistent_sandbox
from encamp.storage.remote import folder_name
from encamp.storage.roots import current_folder
from encamp.storage.signals import signals_exit

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
    """Let `current_sandbox` give ``folder``."""
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
    """A private folder on this host's own disk, for the time of a ``with`` block.

    ``mirror`` says which files to put in it: each is brought to this host's cache once and comes
    from there by the cheapest way that is safe. When the block ends well, what ``outputs`` matches
    is published to its destination folders (relative ones below ``to``, by default the current
    folder); then the folder is removed. It is also removed when the block raises, on Ctrl-C and on
    signals that ask a program to end, such as SIGTERM and SIGHUP (in the main thread); what a
    killed process leaves goes with the next sandbox on this host. ``keep`` moves the folder to the
    local storage's ``kept`` instead.

    ``on_failure`` says what to publish, as far as it is there, when the block raises.

    A ``persistent`` folder stays until this process ends, and the next block of the same ``name``
    finds it as it was left, with nothing mirrored again; a changed mirror map, changed inputs or
    ``renew`` make it anew.

    The current folder of the process stays as it is: paths that the block uses start with the
    folder that it is given. Blocks while files are copied. Raises what `Mirror` and `Output` say.
    """
    base = current_folder()
    destination = named(base, to or ".")
    wanted = as_outputs(outputs)
    rescued = tuple(replace(output, required=False) for output in as_outputs(on_failure))
    for outputs_then in (wanted, rescued):
        check_outputs(outputs_then, destination)
    items = plan(as_mirrors(mirror), base)
    _reclaim_once()
    with signals_exit():
        sandbox = persistent_sandbox(name, items, renew=renew) if persistent else Sandbox(name)
        try:
            if not persistent:
                sandbox.place(items)
            with inside(sandbox.folder):
                yield sandbox.folder
            sandbox.check_inputs(name)
            _publish(sandbox, wanted, destination, name)
        except BaseException:
            with suppress(EncampError, OSError):  # the block's own error matters more
                _publish(sandbox, rescued, destination, name, failed=True)
            raise
        finally:
            if persistent:
                give_back(name, sandbox)
            elif keep:
                sandbox.keep()
            else:
                sandbox.remove()


def _publish(
    sandbox: Sandbox,
    wanted: tuple[Output, ...],
    destination: Path,
    name: str,
    *,
    failed: bool = False,
) -> None:
    staged = stage(
        sandbox.folder,
        wanted,
        destination,
        token=token_hex(8),
        task=name,
        inputs=sandbox.inputs,
        unchanged=None if failed else sandbox.unchanged,
        is_from=sandbox.is_from,
        announce=sandbox.note_parts,
    )
    try:
        publish(staged)
    finally:
        unstage(staged)  # what could not be published


def _reclaim_once() -> None:
    """Remove what dead processes left, once in the life of this one."""
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
    """Decorator: every call of the function has a sandbox of its own as its current folder.

    ``mirror`` and ``outputs`` may be functions of the call's arguments. The decorated function
    works with any executor. The current folder belongs to the whole process, so outside the main
    thread (a thread pool) a call raises RuntimeError unless ``chdir=False``; the function then
    asks `current_sandbox` for its folder.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if not callable(function):
            raise TypeError("write @encamp.sandboxed(...) with its brackets")
        if any(is_late(function) for is_late in _LATE):
            raise TypeError(
                "the folder would be gone before a coroutine or generator runs; "
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
            "a thread cannot have a current folder of its own; use @encamp.sandboxed(chdir=False) "
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

"""Functions for code in a slot: notify or ask its supervisor, have the process replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from encamp.slot.isolation.process_isolation import ProcessIsolation
from encamp.slot.slot import Slot


class ThisProcess:
    """The slot that this process is, if it is one, and what is known of it."""

    slot: Slot | None = None
    isolation: ProcessIsolation | None = None
    stopping = False
    orphaned = False
    last_words: Callable[[], None] | None = None
    at_rest: Callable[[], None] | None = None
    at_end: Callable[[], None] | None = None


def send_to_supervisor(message: object) -> None:
    """Send a message to the supervisor from the running function; does nothing outside a slot."""
    if ThisProcess.slot is not None:
        ThisProcess.slot.send_to_supervisor(message)


def note(message: object) -> None:
    """Leave a note for the supervisor, which can also read it after this process has died.

    Cheaper than `send_to_supervisor`, but a note replaces the previous one. Does nothing outside a
    slot.
    """
    if ThisProcess.slot is not None:
        ThisProcess.slot.note(message)


def ask(question: object) -> Any:
    """The supervisor's answer to a question of the running function; blocks.

    Raises the error that the supervisor answers with, and RuntimeError outside a slot.
    """
    if ThisProcess.slot is None:
        raise RuntimeError("this process is not a slot")
    return ThisProcess.slot.ask(question)


def at_supervisors_end(last_words: Callable[[], None] | None) -> None:
    """Set the function to be called if the supervisor dies during a call (None: none)."""
    ThisProcess.last_words = last_words


def at_rest(tidy: Callable[[], None]) -> None:
    """Set a function to be called once, soon after the last call, if no other call arrives."""
    ThisProcess.at_rest = tidy


def at_end(tidy: Callable[[], None]) -> None:
    """Set a function to be called when this slot ends, before its child processes are ended."""
    ThisProcess.at_end = tidy


def spoil() -> None:
    """Replace this slot's process after the call, because some change to it cannot be undone."""
    if ThisProcess.isolation is not None:
        ThisProcess.isolation.spoilt = True


def leave_process_alone() -> None:
    """Undo nothing but a change of the current folder after the running call.

    The caller promises that nothing else is changed. Child processes are ended as after any call.
    """
    if ThisProcess.isolation is not None:
        ThisProcess.isolation.left_alone = True


@contextmanager
def undone() -> Iterator[None]:
    """A context at whose end changes to this process are undone."""
    try:
        yield
    finally:
        isolation = ThisProcess.isolation
        if isolation is not None and not isolation.undo():
            isolation.spoilt = True


def orphaned() -> bool:
    """Whether this is a slot whose supervisor has ended, so that its results are not needed."""
    return ThisProcess.orphaned

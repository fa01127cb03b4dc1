"""The messages that PyOPUS's tasks and the program send each other, and where they wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_MARK = "pyopus message"


def with_sender(place: int, message: Any) -> tuple[str, int, Any]:
    """A message as it is sent, with its sender's place: a slot, or a PVM host's id.

    (It is a tuple: pickling an object of a class takes as long as everything else for a small
    message.)
    """
    return _MARK, place, message


def has_sender(what: Any) -> bool:
    """Whether an object is a result of `with_sender`."""
    return type(what) is tuple and len(what) == 3 and what[0] == _MARK


@dataclass(frozen=True, slots=True)
class Finish:
    """Sent to tasks when the program ends: tasks that wait for messages end."""


class Finished(BaseException):
    """Raised in a task that waits for a message when the program ends."""


HERE = -1.0
"""Passed in place of a timeout: return only messages that were already read."""


class Mailbox:
    """Messages for one task; those that arrive while others are wanted are kept, in order.

    ``fetch`` waits for some seconds or forever (None); with `HERE` it returns only messages that
    were read already. It returns ``(sender, message)``, None on timeout, or ``()`` for a
    message that is not for the user.
    """

    def __init__(self, fetch: Callable[[float | None], tuple[Any, ...] | None]) -> None:
        self._fetch = fetch
        self._kept: deque[tuple[Any, ...]] = deque()

    def get(self, wait: float | None, sender: object = None) -> tuple[Any, ...]:
        """The next message (of one sender), or ``()`` if none arrives in ``wait`` seconds."""
        for kept in self._kept:
            if sender is None or sender == kept[0]:
                self._kept.remove(kept)
                return kept
        deadline = None if wait is None else time.monotonic() + wait
        left = wait
        while (message := self._fetch(left)) is not None:
            if message and (sender is None or sender == message[0]):
                return message
            if message:
                self._kept.append(message)
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())
        return ()

    def here(self) -> tuple[Any, ...]:
        """The next message that was read already, or ``()``; quicker than checking for new ones."""
        if self._kept:
            return self._kept.popleft()
        while (message := self._fetch(HERE)) == ():
            pass
        return message or ()

    @property
    def empty(self) -> bool:
        """Whether no message is kept."""
        return not self._kept

    def holds(self, sender: object = None) -> bool:
        """Whether a message (of one sender) has arrived; does not wait."""
        found = self.get(0, sender)
        if found:
            self._kept.appendleft(found)
        return bool(found)

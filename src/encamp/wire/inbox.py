"""Messages that arrive: frames are checked and unbundled, and each message goes to its handler.

The reverse of `encamp.wire.outbox`, used by the controller and by agents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from encamp.errors import BadFrame
from encamp.wire.frames import Parts
from encamp.wire.outbox import Outbox
from encamp.wire.protocol import unbundled
from encamp.wire.seal import Seal

S = TypeVar("S")
Handler = Callable[[S, Any, Parts], None]
"""Called with the sender, the envelope, and all parts of a message."""
Arrived = tuple[int, Any, Parts]
"""The sender's number, the envelope, and all parts."""


class Inbox(Generic[S]):
    """Messages from an engine's network; for the thread that drives the pump.

    ``senders`` converts a number to the object that handlers use for this sender, or to None if its
    messages are to be ignored. ``heard`` is called with the sender of each frame that is not
    forged. ``in_order`` calls a function with each of several messages.
    """

    def __init__(
        self,
        outbox: Outbox,
        senders: Callable[[int], S | None],
        *,
        heard: Callable[[S], None],
        in_order: Callable[[Callable[[Arrived], None], Iterable[Arrived]], None],
    ) -> None:
        self._outbox, self._senders = outbox, senders
        self._heard, self._in_order = heard, in_order
        self._seal: Seal | None = None
        self.handlers: Mapping[type, Handler[S]] = {}
        """By type of envelope; other messages are ignored."""

    def use_key(self, key: bytes, me: int) -> None:
        """Seal all frames in both directions from now on; ``me`` is the number of this end."""
        self._seal = self._outbox.seal = Seal(key, me)

    def receive(self, number: int, parts: Parts) -> None:
        """Handle the messages of a frame; ignores forged ones. ``number`` is that of the sender."""
        try:
            if self._seal is not None:
                parts = self._seal.open(number, parts)
            sender = self._senders(number)
            if sender is None:
                return
            self._heard(sender)
            messages = unbundled(parts)
        except BadFrame:
            return
        if len(messages) == 1:
            self.handle((number, *messages[0]))
        else:
            self._in_order(self.handle, [(number, *message) for message in messages])

    def handle(self, message: Arrived) -> None:
        """Call the handler of a message; ignores forged messages."""
        number, envelope, parts = message
        sender = self._senders(number)  # it may have left since the frame arrived
        handler = self.handlers.get(type(envelope))
        if handler is not None and sender is not None:
            try:
                handler(sender, envelope, parts)
            except BadFrame:
                return

"""A task's files on its spawner's disk, for hosts that do not see it: one side asks for them.

    the task's host                                         the spawner's host
    SpawnersFiles ── ask: "chunk", "entries", "write" ──►  TaskFiles ──► Sender: inputs
                  ◄── answer ─────────────────────────              ──► Receiver: outputs

How inputs and outputs are divided is in `encamp.storage.inputs.send_inputs` and
`encamp.storage.outputs.send_outputs`; the layers above carry questions and answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from encamp.errors import UnusableInput
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.send_inputs import Sender
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.send_outputs import Piece, Receiver
from encamp.storage.shared_folders import local


class SpawnersFiles:
    """The spawner's disk, at a task's host: a `Channel` and an `OutputChannel`.

    ``ask`` is a function like `Slot.ask`: it takes a question to `TaskFiles.answer`.
    """

    def __init__(self, ask: Callable[[object], Any]) -> None:
        self._ask = ask

    def chunk(self, path: Any, offset: int) -> Any:
        """`Channel.chunk`."""
        return self._ask(("chunk", path, offset))

    def entries(self, path: Any, exclude: tuple[str, ...]) -> Any:
        """`Channel.entries`."""
        return self._ask(("entries", path, exclude))

    def write(self, piece: Piece) -> Any:
        """`OutputChannel.write`."""
        return self._ask(("write", piece, None))


class TaskFiles:
    """One task's files on this side: inputs to send, and outputs to receive.

    Any thread may use it. After it is closed nothing is sent or received.
    """

    def __init__(self, inputs: Iterable[Item], outputs: Iterable[Output]) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._lock = threading.Lock()
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        self._over = False

    def answer(self, question: Any) -> Any:
        """Answer a host that does not see this one's disk; may wait for the disk.

        Questions are ``(what, path or piece, detail)``; see `Sender` and `Receiver` for the errors.
        "over" asks whether the task is no longer wanted.
        """
        what, about, detail = question
        if what == "over":
            return self._over
        with self._lock:
            if self._over:
                raise UnusableInput(str(about), "the task that asked for it has ended")
            if what == "write":
                return self._taker.write(about)
            giver = self._giver
            return giver.chunk(about, detail) if what == "chunk" else giver.entries(about, detail)

    @property
    def _taker(self) -> Receiver:
        if self._receiver is None:
            places = {one.at: one.trust for one in self._outputs if one.at is not None}
            self._receiver = Receiver({local(at): trust for at, trust in places.items()})
        return self._receiver

    @property
    def _giver(self) -> Sender:
        if self._sender is None:
            self._sender = Sender(local(i.source) for i in self._inputs if i.url is None)
        return self._sender

    def stop(self) -> None:
        """Cancel the transfer: the task is no longer wanted."""
        self._over = True

    def close(self) -> None:
        """Remove received files that were not published; may wait for the disk."""
        self.stop()
        with self._lock:
            if self._receiver is not None:
                self._receiver.discard()

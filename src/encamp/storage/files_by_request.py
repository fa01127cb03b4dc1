"""A task's files on its spawner's disk, for hosts that do not see it: one side asks for them.

    the task's host                                         the spawner's host
    SpawnersFiles ── ReadChunk, ListEntries, WritePiece ──►  TaskFiles ──► Sender: inputs
                  ◄── answer ───────────────────────────               ──► Receiver: outputs

How inputs and outputs are divided is in `encamp.storage.inputs.send_inputs` and
`encamp.storage.outputs.send_outputs`; the layers above carry questions and answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from encamp.errors import UnusableInput
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.send_inputs import Chunk, Sender, SentEntry
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.send_outputs import OutputPaths, Piece, Receiver
from encamp.storage.outputs.stage import Staged
from encamp.storage.shared_folders import Portable, below, local, name_of


class FilesQuestion(msgspec.Struct, frozen=True):
    """Base of the questions to `TaskFiles.answer`."""

    @property
    def about(self) -> str:
        """The path in errors about it."""
        return ""


class ReadChunk(FilesQuestion, frozen=True):
    """Requests bytes of an input, see `Sender.chunk`."""

    path: Portable
    offset: int

    @property
    def about(self) -> str:
        return name_of(self.path)


class ListEntries(FilesQuestion, frozen=True):
    """Requests the entries of a tree, see `Sender.entries`."""

    path: Portable
    exclude: tuple[str, ...]

    @property
    def about(self) -> str:
        return name_of(self.path)


class WritePiece(FilesQuestion, frozen=True):
    """Brings a piece of an output, see `Receiver.write`."""

    piece: Piece

    @property
    def about(self) -> str:
        return name_of(below(self.piece.folder, self.piece.inner))


class IsOver(FilesQuestion, frozen=True):
    """Asks whether the task is no longer wanted."""


class PublishRescued(FilesQuestion, frozen=True):
    """Asks to publish the files of a task whose process is dead, as far as possible."""

    staged: list[Staged]


class SpawnersFiles:
    """The spawner's disk, at a task's host: a `Channel` and an `OutputChannel`.

    ``ask`` is a function like `Slot.ask`: it takes a question to `TaskFiles.answer`.
    """

    def __init__(self, ask: Callable[[FilesQuestion], Any]) -> None:
        self._ask = ask

    def chunk(self, path: Portable, offset: int) -> Chunk:
        """`Channel.chunk`."""
        chunk: Chunk = self._ask(ReadChunk(path, offset))
        return chunk

    def entries(self, path: Portable, exclude: tuple[str, ...]) -> list[SentEntry]:
        """`Channel.entries`."""
        entries: list[SentEntry] = self._ask(ListEntries(path, exclude))
        return entries

    def write(self, piece: Piece) -> OutputPaths:
        """`OutputChannel.write`."""
        paths: OutputPaths = self._ask(WritePiece(piece))
        return paths


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

    def answer(self, question: FilesQuestion) -> Any:
        """Answer a host that does not see this one's disk; may wait for the disk.

        See `Sender` and `Receiver` for the errors.
        """
        if isinstance(question, IsOver):
            return self._over
        with self._lock:
            if self._over:
                raise UnusableInput(question.about, "the task that asked for it has ended")
            match question:
                case ReadChunk(path, offset):
                    return self._opened_sender.chunk(path, offset)
                case ListEntries(path, exclude):
                    return self._opened_sender.entries(path, exclude)
                case WritePiece(piece):
                    return self._opened_receiver.write(piece)
        raise TypeError(f"a task's files cannot answer a {type(question).__name__}")

    @property
    def _opened_receiver(self) -> Receiver:
        if self._receiver is None:
            places = {one.at: one.trust for one in self._outputs if one.at is not None}
            self._receiver = Receiver({local(at): trust for at, trust in places.items()})
        return self._receiver

    @property
    def _opened_sender(self) -> Sender:
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

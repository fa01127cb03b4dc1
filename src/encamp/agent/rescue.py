"""Rescuing files of calls whose process has been killed: an agent does this for its slots.

    slot                              agent                             controller
    in_folder ── note: LeftFolder ──► Rescues.begin
                                        ── SlotEnded ─────────────────► the task waits
                                      thread: rescue_dead ── Ask ─────► publishes the files
                                        ── Rescued ───────────────────► ends the task

A call that was interrupted by `Stopped` has a result, with ``left``, in place of `SlotEnded`.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from encamp.engines.engine_interface import CONTROLLER
from encamp.errors import ClusterClosed
from encamp.loop.pump import Pump
from encamp.wire.frames import Parts
from encamp.wire.pickling import dump, load
from encamp.wire.protocol import NOWHERE, Answer, Ask, Rescued, encode

if TYPE_CHECKING:
    from encamp.slot.call_folder import LeftFolder
    from encamp.storage.files_by_request import FilesQuestion

_Answers = SimpleQueue[tuple[bool, Parts] | None]


class AgentForRescues(Protocol):
    """The part of an agent that rescues need."""

    pump: Pump
    over: bool

    def post(self, to: int, parts: Parts) -> None:
        """Send a message."""


class Rescues:
    """The rescues of one agent, each in a thread of its own, since it may take long."""

    def __init__(self, agent: AgentForRescues) -> None:
        self._agent = agent
        self._running: dict[threading.Thread, Path] = {}
        self._tickets = count()
        self._answers: dict[int, _Answers] = {}
        """By ticket, where the threads wait for answers."""

    def begin(self, note: bytes) -> None:
        """Rescue the files of a call whose process has ended; nothing if the ``note`` is empty.

        At the end, whatever happens, the folder is removed, and the controller learns of that.
        """
        if (left := _folder_in(note)) is None:
            return
        path = Path(os.fsdecode(left.path))
        thread = threading.Thread(
            target=self._rescue, args=(left.task, path), name="encamp-rescue", daemon=True
        )
        self._running[thread] = path
        try:
            thread.start()
        except RuntimeError:  # the system allows no more threads
            _remove(path)
            self._ended(left.task, thread)

    def drop(self, note: bytes) -> None:
        """Remove the folder in a process's note: the cluster ends."""
        if (left := _folder_in(note)) is not None:
            _remove(Path(os.fsdecode(left.path)))

    def answered(self, envelope: Answer, parts: Parts) -> None:
        """Take an answer of the controller."""
        if (answers := self._answers.get(envelope.ticket)) is not None:
            answers.put((envelope.ok, parts[1:]))

    def end(self, within: float) -> None:
        """Cancel what runs, and remove all of it; the agent is over."""
        deadline = time.monotonic() + within
        for answers in list(self._answers.values()):
            answers.put(None)
        for thread, path in list(self._running.items()):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():  # it copies a large file, and finds no other after this
                _remove(path)

    def _rescue(self, task: int, path: Path) -> None:
        with suppress(Exception):  # the task's own error matters more
            self._publish(task, path)
        _remove(path)
        self._agent.pump.call_soon(partial(self._ended, task, threading.current_thread()))

    def _publish(self, task: int, path: Path) -> None:
        # here, because most agents never need them
        from encamp.storage.files_by_request import PublishRescued, SpawnersFiles
        from encamp.storage.folder_life import noted_plan, rescue_dead
        from encamp.storage.outputs.stage import unstage

        plan = noted_plan(path)
        if plan is None:
            return
        ask = partial(self._ask, task)
        staged = rescue_dead(path, plan, SpawnersFiles(ask), notes_parts=True)
        try:
            if staged:
                ask(PublishRescued(staged))
        except BaseException:
            with suppress(Exception):
                unstage(staged)
            raise

    def _ask(self, task: int, question: FilesQuestion) -> Any:
        """The controller's answer; raises the error that it answers with, or `ClusterClosed`."""
        ticket = next(self._tickets)
        answers = self._answers[ticket] = _Answers()
        try:
            if self._agent.over:
                raise ClusterClosed
            parts = [encode(Ask(NOWHERE, task, ticket)), *dump(question)]
            self._agent.pump.call_soon(lambda: self._agent.post(CONTROLLER, parts))
            answer = answers.get()
        finally:
            del self._answers[ticket]
        if answer is None:
            raise ClusterClosed
        good, value = answer[0], load(answer[1])
        if not good:
            raise value
        return value

    def _ended(self, task: int, thread: threading.Thread) -> None:
        del self._running[thread]
        if not self._agent.over:
            self._agent.post(CONTROLLER, [encode(Rescued(task))])


def noted_task(note: bytes) -> int:
    """The number of the task in a process's note; 0 if there is none."""
    left = _folder_in(note)
    return 0 if left is None else left.task


def _folder_in(note: bytes) -> LeftFolder | None:
    if not note:
        return None
    from encamp.slot.call_folder import LeftFolder

    try:
        return msgspec.msgpack.decode(note, type=LeftFolder)
    except msgspec.DecodeError:  # the task has written to it, perhaps
        return None


def _remove(path: Path) -> None:
    from encamp.storage.folder_life import end_dead

    with suppress(Exception):
        end_dead(path, keeps=False)

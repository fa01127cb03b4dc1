"""Results that a slot has and has not sent yet, in memory that its agent can read.

Sending one result takes as long as a short call. So a slot with short calls sends several results
together. Until then they are in memory that its agent shares, in case the process ends, or a call
takes long after all. No result waits forever: it is held only within `HOLD` seconds of the message
before it, and is here before twice as many are over; an agent that receives nothing from a slot for
four times as long looks here (`read`).

    8 bytes   number of the first result here << 20 | bytes that are in use, with these 8
    results:  4 bytes of length, and the output of `encode`
    8 bytes   behind `SIZE`: how many calls the slot has begun
    16 bytes  then: a note of the running call's progress (`Ledger.mark`)
    8 bytes   number of the note << 20 | its length, or 0 while there is none
    a note:   what would be lost with the process, such as the position of the running call
    cells:    short messages, which are no part of the ledger (`shared_memory`)

The first 8 bytes are one word, written last; so is that of the note. Numbers only grow. A call that
the slot has begun, without a result when its process has ended, is lost; calls that it has not
begun can run elsewhere.
"""

from __future__ import annotations

import mmap
import os
from time import perf_counter

import msgspec

HOLD = 0.0005
SIZE = 1 << 16
_USED = 20
"""Bits of the first word that say how much is in use."""
_BEGIN = 8
_LENGTH = 4
_WORD = 8
_BEHIND = 3 * _WORD
_NOTE = SIZE + _BEHIND
LONGEST_NOTE = 1 << 15
CELL = 64 + (1 << 12)
CELLS = (_NOTE + _WORD + LONGEST_NOTE) // CELL * CELL + CELL
"""Where the cells of short messages begin; see `shared_memory`."""
ALL = CELLS + 2 * CELL


def create() -> int:
    """Memory for a slot's ledger: a file descriptor."""
    try:
        fd = os.memfd_create("encamp-ledger")
    except (OSError, AttributeError):  # refused in this container, or unknown to this Python
        import tempfile  # which slots do without elsewhere, and start quicker

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, ALL)
    return fd


_AT_COUNT = SIZE // _WORD
_AT_MARK = _AT_COUNT + 1


class Ledger:
    """The slot's side. Without a file descriptor it holds nothing back."""

    def __init__(self, fd: int = -1) -> None:
        self.held: list[msgspec.Raw] = []
        """The results that were not sent, encoded."""
        self.first = 0
        """Number of the first of these."""
        self._begin = self._end = 0
        self._notes = 0
        self._sent = 0.0
        self.count = 0
        """Calls that have begun."""
        self.now = 0, 0
        """What was marked last."""
        if fd >= 0:
            self.memory = memoryview(mmap.mmap(fd, ALL))
            os.close(fd)
            self._bytes, self._words = self.memory, self.memory.cast("Q")
            self._begin = self._end = _BEGIN

    def open(self) -> None:
        """Show that this process is ready for calls."""
        if self._begin:
            self._words[0] = self.first << _USED | self._begin

    def begin_call(self) -> None:
        """Note that one more call begins."""
        self.count += 1
        if self._begin:
            self._words[_AT_COUNT] = self.count
            self._words[_AT_MARK + 1] = 0

    def mark(self, about: int, number: int) -> None:
        """Note how far the running call is; its agent tells that if this process dies."""
        self.now = about, number
        if self._begin:
            words = self._words
            if words[_AT_MARK] != about:
                words[_AT_MARK + 1] = 0
                words[_AT_MARK] = about
            words[_AT_MARK + 1] = number

    def note(self, note: bytes) -> bool:
        """Put a note in the place of the one before; False if there is no room, and now none."""
        if not self._begin:
            return False
        self._words[_NOTE // _WORD] = 0
        if len(note) > LONGEST_NOTE:
            return False
        self._notes += 1
        begin = _NOTE + _WORD
        self._bytes[begin : begin + len(note)] = note
        self._words[_NOTE // _WORD] = self._notes << _USED | len(note)
        return True

    def hold(self, result: bytes, now: float) -> bool:
        """Keep a result for later; False if it is time to send it, and all that is held."""
        begin = self._end
        end = begin + _LENGTH + len(result)
        if now - self._sent > HOLD or not begin or end > SIZE:
            return False
        self._bytes[begin:end] = len(result).to_bytes(_LENGTH, "little") + result
        self._words[0] = self.first << _USED | end
        self._end = end
        if perf_counter() - self._sent > 2 * HOLD:
            return False  # this process was kept from its core, and the agent may have looked
        self.held.append(msgspec.Raw(result))
        return True

    def sent(self, count: int, now: float) -> None:
        """What was held, and what went with it, was sent."""
        self.first += count
        self._sent = now
        if self._end > self._begin:
            self.held = []
            self._end = self._begin
            self._words[0] = self.first << _USED | self._begin


def begun(fd: int) -> int:
    """How many calls a slot has begun; for its agent."""
    return int.from_bytes(os.pread(fd, _WORD, SIZE), "little")


def marked(fd: int) -> tuple[int, int]:
    """What the call that a slot runs has noted last; for its agent."""
    words = os.pread(fd, 2 * _WORD, SIZE + _WORD)
    return int.from_bytes(words[:_WORD], "little"), int.from_bytes(words[_WORD:], "little")


def noted(fd: int) -> bytes:
    """The slot's note; for its agent. Empty if there is none, or it is just being written."""
    word = os.pread(fd, _WORD, _NOTE)
    length = int.from_bytes(word, "little") % (1 << _USED)
    note = os.pread(fd, length, _NOTE + _WORD)
    return note if os.pread(fd, _WORD, _NOTE) == word else b""


def is_open(fd: int) -> bool:
    """Whether the slot has ever been ready for calls."""
    return any(os.pread(fd, _BEGIN, 0))


def read(fd: int) -> tuple[int, list[bytes]] | None:
    """The results that a slot holds: the number of the first, and all, encoded; for its agent.

    None while the slot changes what is there.
    """
    word = os.pread(fd, _BEGIN, 0)
    first, used = divmod(int.from_bytes(word, "little"), 1 << _USED)
    data = os.pread(fd, max(0, used - _BEGIN), _BEGIN)
    if os.pread(fd, _BEGIN, 0) != word:
        return None
    results, at = [], 0
    while at < len(data):
        end = at + _LENGTH + int.from_bytes(data[at : at + _LENGTH], "little")
        results.append(data[at + _LENGTH : end])
        at = end
    return first, results

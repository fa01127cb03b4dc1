"""Results that a slot has not sent yet, in memory that its agent can read.

Sending a result takes as long as a short call, so a slot with short calls sends several results
together. Until then they are in shared memory; the agent takes them from there if the process ends
or a call takes longer than expected. A slot holds a result back only within `HOLD` seconds after
its last message, and has written it here within twice that time. An agent that has received
nothing from a slot for four times as long reads the memory (`read`).

    8 bytes   number of the first result here << 20 | bytes that are in use, with these 8
    results:  4 bytes of length, and the output of `encode`
    8 bytes   behind `SIZE`: how many calls the slot has begun
    16 bytes  then: a note of the running call's progress (`Ledger.mark`)
    8 bytes   number of the note << 20 | its length, or 0 while there is none
    a note:   data that would be lost with the process, such as the position of the running call
    cells:    short messages, which are not part of the ledger (`shared_memory`)

The first 8 bytes are one word, which is written last. The same applies to the word of the note.
Numbers only grow. If the process ends, a call that it has begun and that has no result is lost;
calls that it has not begun can run elsewhere.
"""

from __future__ import annotations

import mmap
import os
from time import perf_counter

import msgspec

HOLD = 0.0005
SIZE = 1 << 16
_USED = 20
"""Bits of the first word for the number of bytes in use."""
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
    """Create the memory for a slot's ledger; returns a file descriptor."""
    try:
        fd = os.memfd_create("encamp-ledger")
    except (OSError, AttributeError):  # refused in this container, or unknown to this Python
        import tempfile  # imported here, so that slots start faster

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, ALL)
    return fd


_AT_COUNT = SIZE // _WORD
_AT_MARK = _AT_COUNT + 1


class Ledger:
    """The slot's side of the memory. Without a file descriptor it holds no results back."""

    def __init__(self, fd: int = -1) -> None:
        self.held: list[msgspec.Raw] = []
        """The encoded results that were not sent yet."""
        self.first = 0
        """The number of the first of these among all results of the slot."""
        self._begin = self._end = 0
        self._notes = 0
        self._sent = 0.0
        self.count = 0
        """How many calls have begun."""
        self.now = 0, 0
        """The arguments of the last `mark`."""
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
        """Record that a call begins."""
        self.count += 1
        if self._begin:
            self._words[_AT_COUNT] = self.count
            self._words[_AT_MARK + 1] = 0

    def mark(self, about: int, number: int) -> None:
        """Record how far the running call is; its agent reports this if the process dies."""
        self.now = about, number
        if self._begin:
            words = self._words
            if words[_AT_MARK] != about:
                words[_AT_MARK + 1] = 0
                words[_AT_MARK] = about
            words[_AT_MARK + 1] = number

    def note(self, note: bytes) -> bool:
        """Replace the note. False if it is too long: then there is no note."""
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
        """Hold a result back; False if it must be sent now, with those that are held."""
        begin = self._end
        end = begin + _LENGTH + len(result)
        if now - self._sent > HOLD or not begin or end > SIZE:
            return False
        self._bytes[begin:end] = len(result).to_bytes(_LENGTH, "little") + result
        self._words[0] = self.first << _USED | end
        self._end = end
        if perf_counter() - self._sent > 2 * HOLD:
            return False  # this process did not run for a while, and the agent may have read it
        self.held.append(msgspec.Raw(result))
        return True

    def sent(self, count: int, now: float) -> None:
        """Record that ``count`` results were sent, including all held ones."""
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
    """The last mark of the running call of a slot; for its agent."""
    words = os.pread(fd, 2 * _WORD, SIZE + _WORD)
    return int.from_bytes(words[:_WORD], "little"), int.from_bytes(words[_WORD:], "little")


def noted(fd: int) -> bytes:
    """The slot's note; for its agent. Empty if there is none, or the slot is writing it."""
    word = os.pread(fd, _WORD, _NOTE)
    length = int.from_bytes(word, "little") % (1 << _USED)
    note = os.pread(fd, length, _NOTE + _WORD)
    return note if os.pread(fd, _WORD, _NOTE) == word else b""


def is_open(fd: int) -> bool:
    """Whether the slot has ever been ready for calls."""
    return any(os.pread(fd, _BEGIN, 0))


def read(fd: int) -> tuple[int, list[bytes]] | None:
    """The number of the first result that a slot holds, and the encoded results; for its agent.

    None if the slot is just writing.
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

"""Files of bounded size for output: their beginning and end are kept.

While a program writes, the disk blocks of the middle are freed (fallocate(2)), so that neither a
pipe nor a thread is needed between the program and its file.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_BLOCK = 512
"""Bytes per block in the results of stat(2)."""
_PAGE = 1 << 16
"""Holes are rounded to this many bytes, because file systems free whole blocks."""
_libc = ctypes.CDLL(None, use_errno=True)


def free_middle(fd: int, head: int, tail: int) -> None:
    """Free the disk space of all but the first ``head`` and last ``tail`` bytes, if it is much.

    The size of the file stays the same, so that programs can continue appending. Does nothing on
    file systems without support for it.
    """
    facts = os.fstat(fd)
    if facts.st_blocks * _BLOCK <= 2 * (head + tail) + 2 * _PAGE:
        return
    start = -(-head // _PAGE) * _PAGE
    length = (facts.st_size - tail) // _PAGE * _PAGE - start
    if length > 0:
        with suppress(AttributeError):
            mode = ctypes.c_int(_PUNCH_HOLE | _KEEP_SIZE)
            _libc.fallocate(fd, mode, ctypes.c_int64(start), ctypes.c_int64(length))


def free_middle_of(file: Path, most: int) -> None:
    """`free_middle` for a file, which does not have to exist, and which keeps ``most`` bytes."""
    with suppress(OSError):  # the file does not exist yet, or was removed
        if file.stat().st_size > most:
            fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                free_middle(fd, most // 2, most // 2)
            finally:
                os.close(fd)


def ends_of(fd: int, most: int, hint: str) -> tuple[bytes, bytes]:
    """The beginning and end of a file's text, ``most`` bytes together.

    A file without more than that has an empty beginning. Otherwise the beginning ends with a mark
    for what was left out. Characters are not split.
    """
    size, half = os.fstat(fd).st_size, most // 2
    if size <= most:
        return b"", os.pread(fd, size, 0)
    head, tail = _whole_at_end(os.pread(fd, half, 0)), os.pread(fd, half, size - half)
    tail = whole_at_start(tail)
    return head + _mark(size - len(head) - len(tail), size, hint), tail


def whole_at_start(text: bytes) -> bytes:
    """Text without a partial character at its beginning (UTF-8)."""
    cut = 0
    while cut < min(3, len(text)) and text[cut] & 0xC0 == 0x80:
        cut += 1
    return text[cut:]


def _whole_at_end(text: bytes) -> bytes:
    """Text without a partial character at its end."""
    for back in range(1, min(3, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text[:-back] if length > back else text
        if byte < 0x80:
            break
    return text


def _mark(left_out: int, size: int, hint: str) -> bytes:
    return f"\n[encamp: {left_out} of {size} bytes are left out here; {hint}]\n".encode()


def cut(file: Path, most: int, hint: str) -> None:
    """Replace the middle of a file of more than ``most`` bytes by a line about what is missing.

    Characters are not split.
    """
    import shutil  # imported here, so that slots start faster

    size, half = file.stat().st_size, most // 2
    if size <= most:
        return
    new = file.with_name(f"{file.name}.cut")
    with file.open("rb") as old, new.open("wb") as kept:
        head = _whole_at_end(old.read(half))
        old.seek(size - half)
        tail = whole_at_start(old.read(_PAGE))
        left_out = old.tell() - len(tail) - len(head)
        kept.write(head + _mark(left_out, size, hint) + tail)
        shutil.copyfileobj(old, kept)
    new.replace(file)

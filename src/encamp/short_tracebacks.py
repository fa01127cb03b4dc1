"""Short tracebacks: only the lines of the user's own code."""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

_OURS = str(Path(__file__).parent) + "/"
_NOTEBOOKS = ("/IPython/", "/ipykernel/", "/concurrent/futures/", "/asyncio/", "/contextlib.py")
"""Libraries whose frames are left out, besides encamp's own: they call the user's code."""


def brief_trace(exc: BaseException, name: str, words: str) -> list[str]:
    """A short traceback's lines: the user's own frames, innermost last, and the error's text."""
    frames = [*_own_frames(exc.__traceback__)]
    return [*frames, f"{name}: {words}"]


def _own_frames(trace: TracebackType | None) -> list[str]:
    lines = []
    for frame in traceback.extract_tb(trace):
        file = frame.filename
        if file.startswith(_OURS) or any(part in file for part in _NOTEBOOKS):
            continue
        code = (frame.line or linecache.getline(file, frame.lineno or 0)).strip()
        lines.append(f"{_place(file)}, line {frame.lineno}: {code}")
    return lines


def _place(file: str) -> str:
    """A file, or a notebook's cell as IPython names it; the kernel invents file names for cells."""
    module = sys.modules.get("IPython")
    shell: Any = None if module is None else module.get_ipython()
    cell = None if shell is None else shell.compile.format_code_name(file)
    return file if cell is None else " ".join(cell)


_FRAME = re.compile(r' *File "(.+)", line (\d+)(, in .+)?')
_LIBRARY = re.compile(r"/(site|dist)-packages/|/lib/python3\.\d+/|^<frozen ")
_MARKER = re.compile(r" +[~^]+")


def brief_log(text: str, most: int) -> list[str]:
    """The last lines of a log, ``most`` of them.

    From Python's tracebacks, frames of libraries are left out, unless there are no others.
    """
    lines: list[str] = []
    skips = any_own = False
    for line in text.splitlines():
        if frame := _FRAME.fullmatch(line):
            skips = _LIBRARY.search(frame[1]) is not None
            any_own = any_own or not skips
            place = _place(frame[1])
            if place != frame[1]:
                line = f"  {place}, line {frame[2]}{frame[3] or ''}"
        elif not line.startswith("    "):
            skips = False
        if not skips and not _MARKER.fullmatch(line):
            lines.append(line)
    return (lines if any_own else text.splitlines())[-most:]

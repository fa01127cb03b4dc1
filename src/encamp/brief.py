"""A short traceback for notebooks: only the lines of the user's own code."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from types import TracebackType

_OURS = str(Path(__file__).parent) + "/"
_NOTEBOOKS = ("/IPython/", "/ipykernel/", "/concurrent/futures/", "/asyncio/", "/contextlib.py")
"""Code between the notebook and the user's, and between the user's and ours."""


def brief_trace(exc: BaseException, name: str, words: str) -> list[str]:
    """Lines: the user's own frames, the innermost last, and the text of the error."""
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
    """A file, or a notebook's cell, for which the kernel makes up a file name."""
    return "in a cell" if "ipykernel_" in file or file.startswith("<ipython-input") else file

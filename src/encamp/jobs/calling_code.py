"""The code that calls encamp, and whether it is in a notebook."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any


def caller() -> tuple[int, str]:
    """How many frames of encamp's own are on the stack, and the name of the module below them."""
    depth = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("encamp."):
        frame, depth = frame.f_back, depth + 1
    return depth, "" if frame is None else frame.f_globals.get("__name__", "")


def called_by_script() -> bool:
    """Whether encamp is called by a script, and not by a library or from a prompt."""
    main = sys.modules.get("__main__")
    return caller()[1] == "__main__" and getattr(main, "__file__", None) is not None


def in_notebook() -> bool:
    """Whether this is the process of a notebook's kernel."""
    module = sys.modules.get("IPython")
    shell: Any = module.get_ipython() if module is not None else None
    return getattr(shell, "kernel", None) is not None

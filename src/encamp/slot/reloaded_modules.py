"""Modules that the program has reloaded, so that its slots import their new versions."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

_LIBRARIES = (str(Path(os.__file__).parent) + os.sep, str(Path(__file__).parents[1]) + os.sep)
"""Folders of modules that are not reloaded: Python's own and encamp's."""


class Reloads:
    """The program's own modules that were reloaded, by `importlib.reload` or %autoreload."""

    def __init__(self) -> None:
        self._specs: dict[str, Any] = {}
        """The specs of modules seen so far. A reload gives a module a new one."""
        self._count = 0
        self._reloads: list[str] = []
        self.look()

    def look(self) -> list[str]:
        """The names of the reloaded modules, in the order in which the reloads were found."""
        if len(sys.modules) != self._count:
            self._count = len(sys.modules)
            for name, module in list(sys.modules.items()):
                if name not in self._specs and _is_own(module):
                    self._specs[name] = module.__spec__
        for name, known in self._specs.items():
            spec = getattr(sys.modules.get(name), "__spec__", known)
            if spec is not known:
                self._specs[name] = spec
                self._reloads = [*self._reloads, name]
        return self._reloads


def _is_own(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or getattr(module, "__spec__", None) is None:
        return False
    return "site-packages" not in file and not file.startswith(_LIBRARIES)

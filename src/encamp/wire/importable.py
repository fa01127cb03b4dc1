"""Whether a function is sent by its name, or with its code."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_CLOUDPICKLE = "cloudpickle"


def is_importable(function: Any) -> bool:
    """Whether a function is sent by its name, because its module has it under that name.

    False for functions of scripts, nested ones, those that only look like a different one
    (`functools.wraps`), and those of modules that the program has registered with cloudpickle.
    """
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not module or module == "__main__" or not name or "<" in name:
        return False
    return value_of(module, name) is function and not _is_registered(module)


def is_importable_module(module: ModuleType) -> bool:
    """Whether a module is sent by its name, because the program has not created it itself."""
    name = module.__name__
    return sys.modules.get(name) is module and not _is_registered(name)


def value_of(module: str, name: str) -> Any:
    """A module's current value of a qualified name; None if it has none."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _is_registered(module: str) -> bool:
    cloudpickle = sys.modules.get(_CLOUDPICKLE)
    if cloudpickle is None:
        return False
    registered = cloudpickle.list_registry_pickle_by_value()
    while module and registered:
        if module in registered:
            return True
        module = module.rpartition(".")[0]
    return False

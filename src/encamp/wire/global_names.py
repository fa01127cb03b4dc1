"""Finds the global variables that a function reads."""

from __future__ import annotations

import dis
import functools
import types

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
"""Instructions that read globals; the last two are in the bodies of classes."""


@functools.lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """The names of globals and builtins that code and the functions inside it read, in order.

    ``code.co_names`` also has the names of attributes and imports, which are not variables.
    """
    names = {step.argval for step in dis.get_instructions(code) if step.opname in _READS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(global_names(constant))
    return tuple(sorted(names))

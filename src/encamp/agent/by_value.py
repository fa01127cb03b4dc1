"""Pickles of code that has no name to be found by: cloudpickle's, and what that lacks.

Functions that keep their results (`functools.cache`) are such: cloudpickle takes them by name,
also those of scripts.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import lru_cache, update_wrapper
from typing import Any

import cloudpickle

_CACHING = type(lru_cache(len))


def dump_by_value(value: object, buffer_callback: Callable[[Any], object] | None = None) -> bytes:
    """The pickle of a value. Raises what its pickling raises."""
    with io.BytesIO() as file:
        Pickler(file, 5, buffer_callback).dump(value)
        return file.getvalue()


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, which takes functions that keep results by value where it takes any so."""

    def reducer_override(self, obj: Any) -> Any:
        """See `pickle.Pickler.reducer_override`."""
        if type(obj) is _CACHING and not _is_importable(obj):
            # in two steps, as one that calls itself has itself among its globals
            return _caching, (obj.cache_parameters(),), obj.__wrapped__, None, None, _fill
        return super().reducer_override(obj)


def _is_importable(function: Any) -> bool:
    module, name = function.__module__, getattr(function, "__qualname__", "")
    if not name or module == "__main__" or module in cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is function


def _caching(parameters: dict[str, Any]) -> Any:
    """A function that keeps results, and waits for the one whose results these are."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return call.function(*args, **kwargs)  # type: ignore[attr-defined]

    return lru_cache(**parameters)(call)


def _fill(caching: Any, function: Callable[..., Any]) -> None:
    caching.__wrapped__.function = function
    update_wrapper(caching, function)

"""Maps as users write them: patterns and folders, for inputs and for outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import starmap
from pathlib import PurePath
from typing import Any, TypeVar

from encamp.errors import BadJob

T = TypeVar("T")


def parse_map(
    spec: Any, kind: type[T], one: Callable[[Any], T], pair: Callable[[Any, Any], T], what: str
) -> tuple[T, ...]:
    """Convert any form of a map (objects, bare patterns, or a mapping) to objects of a kind.

    ``one`` makes one from a bare pattern, ``pair`` from a pattern and its folder. Raises `BadJob`,
    with ``what`` as the option's name.
    """
    if isinstance(spec, kind):
        return (spec,)
    if isinstance(spec, str | PurePath):
        return (one(spec),)
    if isinstance(spec, Mapping):
        return tuple(starmap(pair, spec.items()))
    if not isinstance(spec, Iterable) or isinstance(spec, bytes | bytearray):
        kinds = f"{kind.__name__}s"
        why = f"must be patterns, a mapping of patterns to folders, or {kinds}, not {spec!r}"
        raise BadJob(what, why)
    return tuple([item if isinstance(item, kind) else one(item) for item in spec])

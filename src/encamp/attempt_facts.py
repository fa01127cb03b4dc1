"""Facts that slots send: where an attempt ran, its phases, and what was published.

Times are seconds since the epoch (`time.time`) on the host that took them; sizes are bytes. Each
slot loads this module, so what only reports need is in `encamp.reports`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def quickly_pickled(kind: type[T]) -> type[T]:
    """Class decorator for frozen dataclasses with slots; makes pickling twice as fast.

    Such dataclasses look up their fields at each pickling. Each task sends about a dozen of them.
    """
    names = tuple(one.name for one in fields(kind))  # type: ignore[arg-type]
    values = attrgetter(*names)
    checks = hasattr(kind, "__post_init__")

    def reduced(self: T) -> tuple[Any, ...]:
        given = values(self)
        return (_made, (type(self), names, given)) if checks else (type(self), given)

    kind.__reduce__ = reduced  # type: ignore[assignment]
    return kind


def _made(kind: type[T], names: tuple[str, ...], values: tuple[Any, ...]) -> T:
    """An unpickled dataclass, without another call of its ``__post_init__``."""
    made = object.__new__(kind)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(made, name, value)
    return made


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Where:
    """Where an attempt ran.

    ``worker`` is the name of the executor's worker: an ipyparallel engine, a Dask worker, a pool's
    process. ``pid`` is the process id of the slot that ran the steps.
    """

    host: str
    worker: str
    pid: int


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Span:
    """One phase of one attempt: ``job prephase``, ``task prephase``, each step, ``task postphase``.

    Phases are listed in the order in which they ran.
    """

    name: str
    start: float
    seconds: float


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Published:
    """One output under its final name.

    digest
        Its blake2b-128 in hexadecimal; empty for a symlink or a folder.
    kept
        Whether the file existed before and was not replaced; then it is not the task's.
    kind, target
        "file", "link" (a symlink, which points to ``target``) or "folder" (an empty one).
    """

    path: str
    size: int
    mtime_ns: int
    digest: str
    kept: bool = False
    kind: Literal["file", "link", "folder"] = "file"
    target: str = ""

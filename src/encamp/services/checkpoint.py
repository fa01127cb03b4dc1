"""Saving and restoring the state of a server's object: when it is saved, and by which methods.

This is the server's side. The controller keeps the states: `encamp.services.registry.saved_states`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from encamp.errors import reason
from encamp.wire.frames import Parts
from encamp.wire.pickling import dump, load

Leases = tuple[int, dict[int, tuple[int, int, tuple[int, ...]]]]
"""The last lease that has ended, and the groups of a server, see `server.Server`."""


class Checkpoint:
    """When a server's state is saved: after every ``every`` calls, or never if that is 0."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._saved = 0
        """How many calls the last saved state includes."""

    def is_due(self, calls: int) -> bool:
        """Whether the state is to be saved now, after this many calls."""
        return bool(self._every) and calls - self._saved >= self._every

    def state_of(self, one: Any, leases: Leases, calls: int) -> Parts:
        """The pickled state of a server after this many calls.

        It has the ``leases``, and what the object's ``checkpoint()`` returns, or the object itself.
        Raises RuntimeError.
        """
        self._saved = calls
        what = f"the state of {type(one).__name__} could not be saved"
        with _explained(what, "checkpoint", "restore"):
            parts = dump(one.checkpoint() if hasattr(one, "checkpoint") else one)
        return [pickle.dumps(leases), *parts]


def restored(made: Any, state: bytes, kind: str) -> tuple[Any, Leases]:
    """The object in its saved state, and the leases.

    The object is ``made`` after its ``restore()``, or the saved one if it has no such method.
    ``kind`` is the name of its class. Raises RuntimeError.
    """
    with _explained(f"the last saved state of {kind} could not be restored", "restore"):
        head, *parts = pickle.loads(state)  # noqa: S301 - see `load`
        saved = load(parts)
        leases: Leases = pickle.loads(head)  # noqa: S301 - made by `Checkpoint.state_of`
        if not hasattr(made, "restore"):
            return saved, leases
        made.restore(saved)
        return made, leases


@contextmanager
def _explained(what: str, *methods: str) -> Iterator[None]:
    """Describe an error of a block as one of saving or restoring a server's state."""
    try:
        yield
    except Exception as exc:
        own = " and ".join(f"{name}()" for name in methods)
        raise RuntimeError(f"{what}: {reason(exc)}; check the object's {own}") from exc

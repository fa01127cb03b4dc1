"""PVM's ids in PyOPUS: integers, one for a host's daemon, and one for a task."""

from __future__ import annotations

from functools import total_ordering
from typing import Any

from encamp.compat.pyopus.base import HostID, PyOpusError, TaskID
from encamp.compat.pyopus.pvm_hosts import known_name

__all__ = ["PVMHostID", "PVMTaskID"]


@total_ordering
class PVMHostID(HostID):
    """A host by its daemon's id, ``dtid``; ``name`` is PVM's name for it if that is known."""

    def __init__(self, dtid: int | None, name: str | None = None) -> None:
        self.dtid = _checked_id("dtid", dtid)
        self.name = known_name(self.dtid) or name or "Unknown"

    @staticmethod
    def bad() -> PVMHostID:
        """An id that belongs to no host."""
        return PVMHostID(-1)

    def valid(self) -> bool:
        """Whether a host can have this id."""
        return self.dtid > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PVMHostID) and self.dtid == other.dtid

    def __lt__(self, other: PVMHostID) -> bool:
        return self.dtid < other.dtid if isinstance(other, PVMHostID) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.dtid)

    def __str__(self) -> str:
        return f"{self.name}({self.dtid:x})" if self.valid() else "PVM_NOHOST"

    def __repr__(self) -> str:
        return f"PVMHostID({self.dtid!r}, {self.name!r})"


@total_ordering
class PVMTaskID(TaskID):
    """A task by its id, ``tid``, which contains its host's id."""

    def __init__(self, tid: int | None) -> None:
        self.tid = _checked_id("tid", tid)

    @staticmethod
    def bad() -> PVMTaskID:
        """An id that belongs to no task."""
        return PVMTaskID(-1)

    def valid(self) -> bool:
        """Whether a task can have this id."""
        return self.tid > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PVMTaskID) and self.tid == other.tid

    def __lt__(self, other: PVMTaskID) -> bool:
        return self.tid < other.tid if isinstance(other, PVMTaskID) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.tid)

    def __str__(self) -> str:
        return f"{self.tid:x}" if self.valid() else "PVM_NOTASK"

    def __repr__(self) -> str:
        return f"PVMTaskID({self.tid!r})"


def _checked_id(what: str, value: Any) -> int:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise PyOpusError(f"a {what} is an integer, not {value!r}")
    return -1 if value is None or value < 0 else value

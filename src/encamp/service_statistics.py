"""Statistics of services: what each server has done, and how many callers wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from encamp.errors import printable


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Statistics of a server. ``mean`` is the mean time of its last 50 calls, in seconds."""

    server: int
    host: str
    slot: int | None
    state: str
    calls: int
    failed: int
    busy: float
    mean: float


@dataclass(frozen=True, slots=True)
class ServiceStatistics:
    """Statistics of a service.

    ``queue`` is how many callers wait for a server, ``lost`` how many servers
    have died, and ``wanted`` how many there should be.
    """

    service: str
    queue: int
    wanted: int
    lost: int
    servers: tuple[ServerStatistics, ...]
    former: tuple[ServerStatistics, ...] = ()
    """The latest servers that have ended or died."""

    @property
    def calls(self) -> int:
        """The number of calls to all these servers, including the ``former`` ones."""
        return sum(server.calls for server in (*self.servers, *self.former))

    def _repr_html_(self) -> str:
        from encamp.notebook_html import box, heading, table

        head, (heads, *rows) = self._rows()
        name, _, words = head.partition(": ")
        return box(heading(name, words), table(heads, rows))

    def _rows(self) -> tuple[str, list[tuple[Any, ...]]]:
        head = (
            f"{printable(self.service)}: {len(self.servers)} of {self.wanted} servers, "
            f"{self.queue} waiting, {self.lost} lost"
        )
        rows: list[tuple[Any, ...]] = [
            ("server", "host", "slot", "state", "calls", "raised", "busy", "last 50")
        ]
        rows += [
            (
                one.server,
                printable(one.host) or "-",
                "-" if one.slot is None else one.slot,
                one.state,
                one.calls,
                one.failed,
                f"{one.busy:.2f} s",
                f"{one.mean * 1000:.2f} ms",
            )
            for one in self.servers
        ]
        return head, rows

    def __str__(self) -> str:
        head, rows = self._rows()
        widths = [max(len(str(row[at])) for row in rows) for at in range(len(rows[0]))]
        lines = [
            "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        return "\n".join([head, *(line.rstrip() for line in lines)])


class ServicesStatistics(list[ServiceStatistics]):
    """The statistics of several services; they print as one table each."""

    def __str__(self) -> str:
        return "\n\n".join(map(str, self)) or "no services"

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() for one in self)

"""Statistics of services: what each server has done, and how many callers wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from encamp.errors import printable


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Statistics of one server of a service.

    server, host, slot
        The server's number, its host, and its slot there (None while it waits for one).
    state
        What the server is doing, in words.
    calls, failed
        How many calls it has answered, and how many of these raised an error.
    busy
        The seconds that it has spent in calls.
    mean
        The mean time of its last 50 calls, in seconds.
    """

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
    """Statistics of a service and its servers. `str` makes a table of them.

    service
        The service's name.
    queue
        How many callers wait for a server.
    wanted
        How many servers there should be.
    lost
        How many servers have died.
    servers, former
        Statistics of the present servers, and of the latest ones that have ended or died.
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

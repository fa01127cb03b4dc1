"""``encamp attach``: follow the output of the servers of services."""

from __future__ import annotations

import sys

from encamp.cli.print_answer import print_answer
from encamp.errors import printable, shown
from encamp.services.registry.consoles import Console, consoles, find


def attach_command(name: str | None, program: int | None) -> None:
    """Follow a server's console until the server ends, or list the servers.

    Raises `NoSuchConsole` or `SeveralConsoles`.
    """
    if name is None:
        for console in consoles():
            if program in (None, console.facts.program):
                print_answer(_line(console))
        return
    console = find(name, program)
    console.follow(_write)
    print(shown(f"[encamp: {console.facts.name} has ended]"), file=sys.stderr)  # noqa: T201


def _line(console: Console) -> str:
    facts = console.facts
    where = f"{facts.host}, slot {facts.slot}" if facts.host else "no slot yet"
    return f"{printable(facts.name)}  {printable(where)}, program {facts.program}"


def _write(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()

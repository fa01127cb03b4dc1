"""The consoles of servers: the output of each, in a file on the program's host.

    <local storage>/sandboxes/consoles.<token>/<server>.json    which server it is, while it exists
                                              /<server>.text    its latest output

The folder belongs to the program (`OwnedFolder`), is closed to other users, and is removed with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from encamp.errors import EncampError, NoSuchConsole, SeveralConsoles
from encamp.slot.output_limit import free_middle, whole_at_start
from encamp.storage.dead_owners import reclaim_folder
from encamp.storage.local_storage import local_storage, local_storage_path
from encamp.storage.owned_folder import OwnedFolder, sandboxes

KEPT = 1 << 20
"""Minimum number of bytes of each console that stay readable."""
_NAME = "consoles"
_PIECE = 1 << 16
_LOOK = 0.1
"""Seconds between two checks for more output."""


class Facts(msgspec.Struct, frozen=True):
    """A console's server. ``host`` is empty and ``slot`` None while the server has no slot."""

    service: str
    server: int
    host: str
    slot: int | None
    program: int
    """Process id of the program that has published the service."""

    @property
    def name(self) -> str:
        """The console's name for `find`."""
        return f"{self.service}/{self.server}"


class Consoles:
    """The consoles of a cluster's servers, which its program writes.

    Services work without them if the disk refuses to keep them.
    """

    def __init__(self) -> None:
        self._folder: OwnedFolder | None = None
        self._closed = False

    def introduce(self, service: str, server: int, host: str = "", slot: int | None = None) -> None:
        """Record a server, or its new host and slot, so that `find` finds it."""
        with suppress(EncampError, OSError):
            facts = _facts_file(self._here(), server)
            partial = facts.with_suffix(".new")
            partial.write_bytes(
                msgspec.json.encode(Facts(service, server, host, slot, os.getpid()))
            )
            partial.replace(facts)

    def printed(self, server: int, text: bytes) -> None:
        """Write the output of a server."""
        with suppress(EncampError, OSError), _text_file(self._here(), server).open("ab") as file:
            file.write(text)
            free_middle(file.fileno(), 0, KEPT)

    def ended(self, server: int) -> None:
        """Remove the console of an ended server. Processes that follow it can read the rest."""
        if self._folder is not None:
            with suppress(OSError):
                _facts_file(self._folder.path, server).unlink(missing_ok=True)
                _text_file(self._folder.path, server).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all."""
        self._closed = True
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _here(self) -> Path:
        if self._closed:
            raise OSError("closed")
        if self._folder is None:
            self._folder = OwnedFolder(_NAME)
        return self._folder.path


def _facts_file(folder: Path, server: int) -> Path:
    return folder / f"{server}.json"


def _text_file(folder: Path, server: int) -> Path:
    return folder / f"{server}.text"


class Console:
    """A server's console, for other programs of the same user."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        self._folder, self.facts = folder, facts

    @property
    def live(self) -> bool:
        """Whether more output may follow."""
        there = _facts_file(self._folder, self.facts.server).exists()
        return there and not reclaim_folder(self._folder, dry_run=True)

    def follow(self, write: Callable[[bytes], object]) -> None:
        """Write its latest output, and all that follows, until the server has ended; blocks."""
        text = _text_file(self._folder, self.facts.server)
        while not text.exists() and self.live:
            time.sleep(_LOOK)
        with suppress(FileNotFoundError), text.open("rb", buffering=0) as file:
            file.seek(max(0, text.stat().st_size - KEPT))
            first = file.tell() > 0
            while True:
                live = self.live  # before the look, so that nothing is missed
                while piece := file.read(_PIECE):
                    write(whole_at_start(piece) if first else piece)
                    first = False
                if not live:
                    return
                time.sleep(_LOOK)
                file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - KEPT))


def consoles() -> list[Console]:
    """The consoles of this user's programs on this host. Raises `BadLocalStorage`."""
    if not sandboxes(local_storage_path()).exists():
        return []
    folders = sorted(sandboxes(local_storage()).glob(f"{_NAME}.*"))
    found = [console for folder in folders for console in _consoles_in(folder)]
    return sorted(found, key=lambda one: (one.facts.service, one.facts.server, one.facts.program))


def _consoles_in(folder: Path) -> Iterator[Console]:
    for file in folder.glob("*.json"):
        with suppress(OSError, msgspec.DecodeError):  # it has just ended
            console = Console(folder, msgspec.json.decode(file.read_bytes(), type=Facts))
            if console.live:
                yield console


def find(name: str, program: int | None = None) -> Console:
    """The console of a server, called ``SERVICE/SERVER``.

    Raises `NoSuchConsole`, or `SeveralConsoles` if several programs have one of that name.
    """
    known = consoles()
    fitting = [
        one for one in known if one.facts.name == name and program in (None, one.facts.program)
    ]
    if not fitting:
        raise NoSuchConsole(name, tuple(dict.fromkeys(one.facts.name for one in known)))
    if len(fitting) > 1:
        raise SeveralConsoles(name, tuple(one.facts.program for one in fitting))
    return fitting[0]

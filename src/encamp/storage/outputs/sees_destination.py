"""Whether another host sees a destination: it looks for a file that is put there.

The file is hidden, names its owner, and is removed when the owner closes. Only the owner's user can
read the secret in it, so that no other user can redirect outputs to their folder. The beacon of a
dead owner is removed, with the owner's temporary files, when another is put into the same folder,
or when the local storage that notes it is cleaned.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import msgspec

from encamp.errors import BadDestination, BadLocalStorage, DiskFull, UnusableInput
from encamp.storage.disk.network_delay import sees
from encamp.storage.disk.path_to_destination import Trust, opened
from encamp.storage.disk.temporary_names import BEACON, PART, discard_leftovers, token_of_beacon
from encamp.storage.disk.trusted_files import read_regular
from encamp.storage.owned_folder import OwnedFolder
from encamp.storage.process_identity import MOST_FACTS, ProcessFacts, this_process
from encamp.storage.shared_folders import Portable, SharedPath, local

_BETWEEN = ":"


class _Beacon(msgspec.Struct, frozen=True):
    """The contents of a beacon: ``proof`` is a secret that its owner gives to hosts."""

    owner: ProcessFacts
    proof: str = ""


_DECODER = msgspec.json.Decoder(_Beacon)


class Beacons:
    """The beacons of one owner, whose temporary files have names with its ``token``."""

    def __init__(self, token: str) -> None:
        self._token, self._proof = token, token_hex(16)
        self._folders: dict[Path, bool] = {}
        self._notes: OwnedFolder | None = None

    @property
    def description(self) -> str:
        """The description for hosts, for `reaches`; it is a secret."""
        return f"{self._token}{_BETWEEN}{self._proof}"

    def put(self, folders: Mapping[Path, Trust]) -> None:
        """Put beacons into folders, which are created if missing.

        Each folder has its trust with it. If that fails, hosts send their outputs, and their
        error says why.
        """
        for folder in folders:
            if folder not in self._folders:
                with suppress(OSError, BadDestination):
                    self._folders[folder] = not folder.is_dir()
                    self._note(folder / _name(self._token))
                    _remove_dead(folder, self._make(folder, folders[folder]))

    def _make(self, folder: Path, trust: Trust) -> int:
        """Create a beacon; returns the owner that its disk shows for our files."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with opened(folder, trust, make=True) as at:
            fd = os.open(_name(self._token), flags, 0o600, dir_fd=at)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(_Beacon(this_process(), self._proof)))
            return os.fstat(file.fileno()).st_uid

    def _note(self, beacon: Path) -> None:
        with suppress(BadLocalStorage, DiskFull):
            if self._notes is None:
                self._notes = OwnedFolder("beacons")
            self._notes.note_part(beacon)

    def close(self) -> None:
        """Remove them, and folders that are empty then. Idempotent."""
        for folder, made in self._folders.items():
            with suppress(OSError, BadDestination), opened(folder) as at:
                with suppress(FileNotFoundError):
                    os.unlink(_name(self._token), dir_fd=at)
                if made:
                    with opened(folder.parent) as above:
                        os.rmdir(folder.name, dir_fd=above)
        if self._notes is not None:
            self._notes.remove()


def reaches(folder: Portable, description: str) -> bool:
    """Whether this host can write to a folder that has the beacon described by ``description``.

    A file of that name without the proof belongs to another user, and so may the folder.
    """
    token, _, proof = description.partition(_BETWEEN)
    if isinstance(folder, SharedPath):
        beacon: Portable = SharedPath(folder.root, f"{folder.rest}/{_name(token)}")
    else:
        beacon = f"{folder}/{_name(token)}"
    try:
        if not sees(beacon) or not os.access(local(folder), os.W_OK | os.X_OK):
            return False
        contents = _read(local(beacon))
    except (UnusableInput, OSError):
        return False
    return (
        contents is not None
        and bool(proof)
        and hmac.compare_digest(contents.proof.encode(), proof.encode())
    )


def _name(token: str) -> str:
    return f"{PART}{token}{BEACON}"


def _read(beacon: Path) -> _Beacon | None:
    data = read_regular(beacon, MOST_FACTS)
    with suppress(ValueError, RecursionError):
        return _DECODER.decode(data)
    return None


def _remove_dead(folder: Path, uid: int) -> None:
    """Remove what dead owners of this user have left in a folder and those below."""
    for file in folder.glob(f"{PART}*{BEACON}"):
        token = token_of_beacon(file.name)
        with suppress(OSError):
            if token and file.lstat().st_uid == uid:
                contents = _read(file)
                if contents is not None and contents.owner.known_dead:
                    discard_leftovers([folder], token, uid)

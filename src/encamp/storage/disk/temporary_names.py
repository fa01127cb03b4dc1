"""Files that do not have their final names yet: how they are named, and how they are removed."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import msgspec

from encamp.errors import printable
from encamp.storage.disk.shown_owner import uid_of_new_files

PART = ".encamp-"
"""How temporary names begin; hidden, so that ordinary patterns do not match them."""

BEACON = "-beacon"
"""How the name of a beacon ends, after its owner's token; see `sees_destination`."""


class Written(msgspec.Struct, frozen=True):
    """Identifies a temporary file, to detect one that another user has put in its place."""

    uid: int
    inode: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Written:
        """From a file's status."""
        return cls(status.st_uid, status.st_ino, status.st_mtime_ns)


_TOKEN_BYTES = 6
_TOKEN = re.compile(rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}")


def new_token() -> str:
    """The common part of the temporary names of one owner (a run, a cluster)."""
    return token_hex(_TOKEN_BYTES)


def is_token(text: str) -> bool:
    """Whether a string has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def discard(part: Path) -> None:
    """Remove a temporary file; warns if it cannot be removed."""
    try:
        part.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as exc:
        warnings.warn(f"cannot remove the temporary file {printable(part)}: {exc}", stacklevel=3)


def discard_leftovers(folders: Iterable[Path], token: str, owner: int) -> None:
    """Remove temporary files of one token and user from folders and those below.

    An invalid token matches nothing, and files of other users stay.
    """
    if not is_token(token):
        return
    pending = [os.fspath(folder) for folder in folders]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(PART + token):
                    _discard_of(entry, owner)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def _discard_of(entry: os.DirEntry[str], owner: int) -> None:
    with suppress(OSError):
        status = entry.stat(follow_symlinks=False)
        if status.st_uid == owner and not stat.S_ISDIR(status.st_mode):
            discard(Path(entry.path))


def token_of_beacon(name: str) -> str:
    """The token in the name of a beacon; empty for any other name."""
    token = name.removeprefix(PART).removesuffix(BEACON)
    return token if name == f"{PART}{token}{BEACON}" and is_token(token) else ""


def discard_noted(part: Path) -> None:
    """Remove a temporary file of a dead owner; for a beacon all with its owner's token."""
    if token := token_of_beacon(part.name):
        owner = uid_of_new_files(part.parent)
        if owner is not None:
            discard_leftovers([part.parent], token, owner)
    elif part.name.startswith(PART):
        discard(part)

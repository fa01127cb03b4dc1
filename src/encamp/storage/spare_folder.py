"""The folder that a process keeps, emptied, for its next task.

Creating and removing files and folders is most of what a short task costs its disk.
"""

from __future__ import annotations

import atexit
import threading

from encamp.storage.local_storage import local_storage
from encamp.storage.owned_folder import OwnedFolder

_spare: list[OwnedFolder] = []
_removing = threading.Lock()


def owned_folder(name: str) -> OwnedFolder:
    """The spare folder, under a new name, or a new folder. Raises as `OwnedFolder` does."""
    while _spare:
        owned = _spare.pop()
        if _renewed(owned, name):
            return owned
        owned.remove()
    return OwnedFolder(name)


def _renewed(owned: OwnedFolder, name: str) -> bool:
    try:
        if owned.storage != local_storage():
            return False
        owned.renew(name)
    except OSError:  # a cleaner of temporary files was there, for instance
        return False
    return True


def put_aside(owned: OwnedFolder) -> None:
    """Keep a folder for this process's next task, or remove it if it cannot be used again."""
    if not _spare and owned.empty():
        _spare.append(owned)
    else:
        owned.remove()


def remove_spare() -> None:
    """Remove the spare folder, if there is one. If another thread is doing so, wait for it.

    A slot's thread that finds the supervisor's end calls this, too, and ends the process then.
    """
    with _removing:
        while _spare:
            _spare.pop().remove()


atexit.register(remove_spare)

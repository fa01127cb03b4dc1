"""Whether published files are still there as they were."""

from __future__ import annotations

import os
import stat

from encamp.attempt_facts import Published
from encamp.errors import EncampError
from encamp.storage import urls
from encamp.storage.disk.path_to_destination import NAMED, Trust, open_folder
from encamp.storage.outputs.publish import digest_of
from encamp.storage.urls import is_url


def intact(published: Published, trust: Trust = NAMED) -> bool:
    """Whether a published file is still there as it was: same size and time, or same bytes.

    It is not if another user's link is on the way there; see `trusted`.
    """
    try:
        if is_url(published.path) and published.kind == "folder":
            return True
        if is_url(published.path):
            return urls.size_of(published.path) == published.size
        above, _, name = published.path.rpartition("/")
        folder = open_folder(above or "/", trust)
        try:
            return _is_intact(published, name, folder)
        finally:
            os.close(folder)
    except (OSError, ValueError, EncampError):  # a name with a null byte does not exist
        return False


def _is_intact(published: Published, name: str, folder: int) -> bool:
    if published.kind == "link":
        return os.readlink(name, dir_fd=folder) == published.target
    found = os.stat(name, dir_fd=folder)
    if published.kind == "folder":
        return stat.S_ISDIR(found.st_mode)
    if found.st_size != published.size or not stat.S_ISREG(found.st_mode):
        return False
    return found.st_mtime_ns == published.mtime_ns or digest_of(name, folder) == published.digest

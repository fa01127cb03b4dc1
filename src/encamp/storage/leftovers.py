"""What dead processes left in this host's local storage."""

from __future__ import annotations

from pathlib import Path

from encamp.storage.cache import HostCache
from encamp.storage.owner import reclaim
from encamp.storage.roots import local_storage_path


def reclaim_leftovers(*, dry_run: bool = False) -> list[Path]:
    """Remove folders of dead owners, which are returned, and what is half in the cache.

    Several processes may do this at once. Raises `BadLocalStorage`.
    """
    folders = reclaim(dry_run=dry_run)
    if not dry_run and (local_storage_path() / "cache").is_dir():
        with HostCache() as cache:
            cache.tidy()
    return folders

"""What dead processes left in this host's local storage."""

from __future__ import annotations

import warnings
from pathlib import Path

from encamp.storage.cache import HostCache
from encamp.storage.owner import reclaim
from encamp.storage.roots import local_storage_path


def reclaim_leftovers(*, dry_run: bool = False) -> list[Path]:
    """Remove folders of dead owners, which are returned, and what is half in the cache.

    What the disk does not let go of is warned of and stays. Several processes may do this at once.
    Raises `BadLocalStorage`.
    """
    folders = reclaim(dry_run=dry_run)
    if not dry_run and (local_storage_path() / "cache").is_dir():
        with HostCache() as cache:
            try:
                cache.tidy()
                if folders:
                    cache.adopt()
            except OSError as exc:
                warnings.warn(f"cannot tidy the cache: {exc}", stacklevel=2)
    return folders

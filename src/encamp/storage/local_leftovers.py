"""Removing what dead processes left in this host's local storage."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from encamp.storage.cache.cache import HostCache
from encamp.storage.dead_owners import reclaim
from encamp.storage.local_storage import local_storage_path


def reclaim_leftovers(
    storage: Path | None = None,
    *,
    dry_run: bool = False,
    stayed: dict[Path, OSError] | None = None,
) -> list[Path]:
    """Remove the folders of dead owners, which are returned, and partial entries of the cache.

    ``storage`` is the `local_storage`, if the caller has it already.
    Files that cannot be removed are noted in ``stayed``, or warned about. Several processes may do
    this at once. Raises `BadLocalStorage`.
    """
    folders = reclaim(storage, dry_run=dry_run, stayed=stayed)
    cache = (storage or local_storage_path()) / "cache"
    if not dry_run and cache.is_dir() and (folders or _is_partly_fetched(cache)):
        for path, exc in _tidied(storage, adopt=bool(folders)).items():
            if stayed is None:
                warnings.warn(f"cannot remove {path} from the cache: {exc}", stacklevel=2)
            else:
                stayed[path] = exc
    return folders


def _is_partly_fetched(cache: Path) -> bool:
    """Whether a process is fetching an entry of the cache, or was killed while it did."""
    try:
        return bool(os.listdir(cache / "partial"))
    except FileNotFoundError:
        return False


def _tidied(storage: Path | None, *, adopt: bool) -> dict[Path, OSError]:
    with HostCache(storage=storage) as cache:
        try:
            left = cache.tidy()
            if adopt:
                cache.adopt()
        except OSError as exc:
            return {cache.root: exc}
    return left

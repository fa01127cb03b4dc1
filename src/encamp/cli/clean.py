"""``encamp clean``: what dead processes left on this host goes."""

from __future__ import annotations

from pathlib import Path

from encamp.errors import printable
from encamp.storage.cache import clear_cache
from encamp.storage.leftovers import reclaim_leftovers
from encamp.storage.owner import clean_kept, kept
from encamp.storage.roots import local_storage_path


def clean_command(*, everything: bool, dry_run: bool) -> None:
    """Remove leftovers, or only list them."""
    verb = "would remove" if dry_run else "removed"
    removed = reclaim_leftovers(dry_run=dry_run)
    if everything:
        removed += clean_kept(dry_run=dry_run)
    for folder in removed:
        _say(f"{verb} {printable(folder)}")
    if everything and (size := clear_cache(dry_run=dry_run)):
        _say(f"{verb} {size} bytes of cached inputs")
    elif not removed:
        _say(f"nothing to remove in {printable(local_storage_path())}")
    _tell_of_kept(everything)


def _tell_of_kept(everything: bool) -> None:
    parent = kept(local_storage_path())
    folders: list[Path] = sorted(parent.iterdir()) if parent.is_dir() else []
    if folders and not everything:
        count = "1 folder was" if len(folders) == 1 else f"{len(folders)} folders were"
        _say(f"{count} kept in {printable(parent)}; --all removes what was kept")


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the command's answer

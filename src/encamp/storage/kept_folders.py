"""Folders of tasks that were kept for inspection: where they are, and removing them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from encamp.storage.disk import overlay
from encamp.storage.disk.removal import not_removed, remove_tree
from encamp.storage.local_storage import local_storage, local_storage_path


def kept(root: Path) -> Path:
    """The folder with folders that were kept for inspection; they have no owner."""
    return root / "kept"


def move_to_kept(folder: Path, root: Path) -> Path:
    """Move an owned folder there, as plain files; returns its new path. Raises OSError."""
    overlay.settle(folder)
    parent = kept(root)
    parent.mkdir(mode=0o700, exist_ok=True)
    return folder.rename(parent / folder.name)


def clean_kept(*, dry_run: bool = False, stayed: dict[Path, OSError] | None = None) -> list[Path]:
    """Remove the folders that were kept for inspection, and return them.

    Folders that cannot be removed are noted in ``stayed``, or warned about.
    """
    parent = kept(local_storage_path())
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    if dry_run or not folders:
        return folders
    root, gone = local_storage(), []
    for folder in folders:
        try:
            remove_tree(folder, root, overlay.unmount_below(folder))
            gone.append(folder)
        except OSError as exc:
            not_removed(folder, exc, stayed)
    with suppress(OSError):
        parent.rmdir()
    return gone

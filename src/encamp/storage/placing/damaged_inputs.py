"""Whether a task has written to inputs that it shares with others, or lost some of them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec.structs import replace

from encamp.errors import InputDamaged, InputLost
from encamp.storage.cache.cache import HostCache
from encamp.storage.cache.integrity import files_there, is_intact
from encamp.storage.inputs.mirror import Item
from encamp.storage.owned_folder import OwnedFolder, named_refusals


class Placed(msgspec.Struct):
    """The costs of placing, and which files are shared with other tasks."""

    files: int = 0
    bytes: int = 0
    """Bytes that were written to the local disk for this folder alone."""
    linked: dict[str, tuple[Item, os.stat_result]] = msgspec.field(default_factory=dict)
    """Path of a linked file → its input, and its status before."""
    linked_trees: list[Item] = msgspec.field(default_factory=list)
    mounted: list[Item] = msgspec.field(default_factory=list)
    """Trees that overlays show as they are in the cache."""
    views: dict[Path, Item] = msgspec.field(default_factory=dict)
    """Files that an overlay shows, by their paths in its lower layer."""


def check_undamaged(placed: Placed, cache: HostCache, owned: OwnedFolder, task: str) -> None:
    """Check that shared inputs are as they were placed.

    Raises `InputLost` if one has vanished in the meantime, `InputDamaged` if the task wrote to one.
    A damaged entry of the cache is fetched again for the next task.
    """
    with named_refusals(owned.storage):
        _check_links(placed, cache, owned, task)
        for item in placed.linked_trees:
            if not cache.is_whole(item, written=True):
                _raise_for(item, cache, owned, task)
        for item in placed.mounted:
            if not cache.is_whole(item):
                _raise_for(item, cache, owned, task)
        for view, item in placed.views.items():
            if not is_intact(view, replace(item, readonly=False)):
                raise InputLost(task, item.target, str(owned.storage))
        if placed.linked_trees:
            owned.note_linked(())


def _check_links(placed: Placed, cache: HostCache, owned: OwnedFolder, task: str) -> None:
    for place, (item, before) in placed.linked.items():
        if _changed(place, before):
            cache.forget_damaged(item)
            raise InputDamaged(task, os.path.relpath(place, owned.task))


def _raise_for(item: Item, cache: HostCache, owned: OwnedFolder, task: str) -> None:
    """Missing files in a tree of the cache were not removed through the task's folder."""
    lost = files_there(cache.place_of(item)) < item.files
    cache.forget_damaged(item, "it was damaged" if lost else "a task wrote to it")
    if lost:
        raise InputLost(task, item.target, str(owned.storage))
    raise InputDamaged(task, item.target)


def _changed(path: str, before: os.stat_result) -> bool:
    try:
        now = os.lstat(path)
    except FileNotFoundError:
        return False
    same_file = (now.st_ino, now.st_dev) == (before.st_ino, before.st_dev)
    return same_file and (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)

"""How an input gets from the cache into a task's folder: by the cheapest mode that is safe.

overlay
    A tree is shown under the task's own changes: this takes milliseconds at any size, and the task
    may write. Also for big files. It works where the kernel lets this process mount, see `overlay`;
    unless it is requested, it is used only where the task cannot distinguish it from a copy.
reflink
    A copy that shares its blocks with the entry until one is written to (btrfs, xfs).
link
    A hard link to a read-only entry, for inputs that are declared read-only.
copy
    A copy of the entry.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from encamp.errors import EncampError, ModeRefused
from encamp.storage.disk import overlay
from encamp.storage.inputs.mirror import Item
from encamp.storage.owned_folder import OwnedFolder

ActualMode = Literal["overlay", "reflink", "link", "copy", "direct"]
"""``direct``: copied from the source, past the cache, because only one task needs it."""

_FICLONE = 0x40049409
_MANY_FILES = 32
_BIG_TREE = 4 << 20
_BIG_FILE = 1 << 20
"""For trees with fewer files and bytes, a mount takes longer than a copy."""


def mode_of(item: Item, storage: Path) -> tuple[ActualMode, str]:
    """The mode for an input on this host, and why.

    Raises `ModeRefused` if the requested mode is not available.
    """
    if item.mode != "auto":
        return _asked_for(item, storage), "asked for"
    if not item.cached and item.url is None:
        return "direct", "only one task needs it"
    worth = _worth_a_mount(item) and why_not_as_a_copy(item, storage) is None
    if item.kind == "tree" and worth:
        return "overlay", "mounting is allowed, and it is big enough"
    if why_no_reflink(storage) is None:
        return "reflink", "the disk shares blocks between copies"
    if item.readonly:
        return "link", "it is declared read-only"
    if worth:
        return "overlay", "mounting is allowed, and it is big enough"
    return "copy", f"{why_no_reflink(storage)}; it is not declared read-only"


def needs_own_mounts(items: Iterable[Item]) -> bool:
    """Whether a process that may not mount would gain from its own namespace, see `overlay`."""
    return os.geteuid() != 0 and any(map(_gains_from_mounts, items))


def _gains_from_mounts(item: Item) -> bool:
    if item.mode == "overlay":
        return True
    return item.mode == "auto" and item.cached and _worth_a_mount(item) and not _has_folders(item)


def _has_folders(item: Item) -> bool:
    """Whether an overlay of it has folders in its lower layer."""
    return item.kind == "tree" or "/" in item.target


def why_not_as_a_copy(item: Item, storage: Path) -> str | None:
    """Why a task would notice an overlay, or cannot have one; None if neither.

    Without redirect_dir, folders of the lower layer cannot be renamed.
    """
    if _has_folders(item):
        return why_no_whole_overlay(storage)
    return why_no_overlay(storage)


def _worth_a_mount(item: Item) -> bool:
    if item.kind == "tree":
        return item.files >= _MANY_FILES or item.size >= _BIG_TREE
    return item.size >= _BIG_FILE


def _asked_for(item: Item, storage: Path) -> ActualMode:
    why = None
    if item.mode == "overlay":
        why = why_no_overlay(storage)
    elif item.mode == "reflink":
        why = why_no_reflink(storage)
    if why is not None:
        raise ModeRefused(item.mode, item.name, why)
    mode: ActualMode = next(mode for mode in get_args(ActualMode) if mode == item.mode)
    return mode


@cache
def why_no_overlay(_storage: Path) -> str | None:
    """Why this process cannot mount overlays in the local storage; None if it can."""
    return _tried(overlay.why_not)


@cache
def why_no_whole_overlay(_storage: Path) -> str | None:
    """Why overlays here have folders that cannot be renamed, or do not work; None if neither."""
    return _tried(overlay.why_not_whole)


@cache
def why_no_reflink(_storage: Path) -> str | None:
    """Why files of this disk cannot be copied by sharing their blocks; None if they can."""
    return _tried(_why_no_reflink)


def _tried(trial: Callable[[Path], str | None]) -> str | None:
    """The result of a trial in a separate folder, which is reclaimed after a kill."""
    try:
        owned = OwnedFolder("trial")
        try:
            return trial(owned.task)
        finally:
            owned.remove()
    except (OSError, EncampError) as exc:
        return f"it could not be tried: {exc}"


def _why_no_reflink(folder: Path) -> str | None:
    try:
        (folder / "first").write_bytes(b"\0" * 4096)
        reflink(folder / "first", folder / "second")
    except OSError as exc:
        return f"the disk cannot make reflinks: {exc.strerror}"
    return None


def reflink(entry: Path, place: Path) -> None:
    """Copy a file by sharing its blocks, with its permissions and time; see ioctl_ficlone(2)."""
    with entry.open("rb") as reader, place.open("xb") as writer:
        status = os.fstat(reader.fileno())
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError as exc:
            place.unlink()
            number = exc.errno or errno.EOPNOTSUPP
            raise OSError(number, os.strerror(number), str(place)) from exc
        os.fchmod(writer.fileno(), status.st_mode & 0o777)
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))

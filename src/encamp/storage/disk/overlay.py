"""Overlay mounts: a tree from the cache under a task's own changes, in milliseconds at any size.

The kernel lets root mount, and anybody in their own user namespace (user_namespaces(7), Linux 5.11
for overlays). A slot may enter such a namespace at its start; its mounts then end with it. Mounts
of root are visible to all processes, and are undone when the folder is removed, if necessary by the
next owner of the local storage.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from encamp.storage.disk import mountinfo
from encamp.storage.disk.copy_folder import copy_as_it_is
from encamp.storage.disk.removal import remove_tree

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_BIND = 4096
_MS_REC_PRIVATE = 0x4000 | 0x40000
_MNT_DETACH = 2
SCRATCH = "over-"
"""The beginning of names of folders with the changes of a mount, beside a task's folder."""
VIEW = "view"
"""The lower layer of the mount, in that folder."""
VIEW_TASK = "task"
"""The folder in a view that is shown as the task's folder, if an overlay covers all of it."""
MERGED = "merged"
"""The mount point of such an overlay, beside its changes; the task sees a part of it."""
_WHAT = "what"
"""The file in such a folder that records what is mounted where, for when the mount is gone."""
_SPECIAL = set(",:\\")
"""Characters that a path in mount options must not contain."""


class _State:
    """Whether this process has its own mount namespace."""

    in_namespace = False


def mount(lower: Path, target: Path, scratch: Path) -> None:
    """Show ``lower`` at ``target``; changes go to ``scratch``, a new folder on the same disk.

    Raises OSError if the kernel refuses.
    """
    upper, work = scratch / "upper", scratch / "work"
    for folder in (scratch, upper, work):
        folder.mkdir(mode=0o700)
    if _SPECIAL & set(f"{lower}{scratch}"):
        raise OSError(0, "the local storage's path holds ',', ':' or '\\'")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    if _State.in_namespace:
        options += ",userxattr"
        (scratch / _WHAT).write_bytes(b"\0".join(map(os.fsencode, (lower, target))))
    _call("mount", b"encamp", os.fsencode(target), b"overlay", 0, os.fsencode(options))


def mount_whole(view: Path, trees: Path, target: Path, scratch: Path) -> None:
    """Show the folder `VIEW_TASK` of ``view`` at ``target``, and in it trees that are in ``trees``.

    `show_tree` puts them into the view. For the task, everything is one disk: the contents of the
    trees can be renamed, linked and removed like anything else, which needs redirect_dir, see the
    kernel's overlayfs.rst; only root may have that. Raises OSError as `mount` does.
    """
    upper, work, merged = (scratch / name for name in ("upper", "work", MERGED))
    for folder in (scratch, upper, work, merged):
        folder.mkdir(mode=0o700)
    if _SPECIAL & set(f"{view}{trees}{scratch}"):
        raise OSError(0, "the local storage's path holds ',', ':' or '\\'")
    layers = f"lowerdir={view}:{trees},upperdir={upper},workdir={work},redirect_dir=on"
    _call("mount", b"encamp", os.fsencode(merged), b"overlay", 0, os.fsencode(layers))
    shown = os.fsencode(merged / VIEW_TASK)
    _call("mount", shown, os.fsencode(target), None, _MS_BIND, None)


def show_tree(place: Path, tree: str) -> None:
    """Make ``place``, a new folder in a view, show ``tree`` below the trees' folder."""
    place.mkdir(mode=0o700)
    os.setxattr(place, "trusted.overlay.redirect", os.fsencode(f"/{tree}"))


def unmount_below(folder: Path) -> list[str]:
    """Undo every mount at or below ``folder``, the innermost first; see umount2(2).

    Returns those that this process may not undo.
    """
    points = mounts_below(folder)
    for point in reversed(points):
        with suppress(OSError):
            _call("umount2", os.fsencode(point), _MNT_DETACH)
    return mounts_below(folder) if points else []


def settle(folder: Path) -> None:
    """Turn every mount at or below ``folder`` into plain files, as they are seen now.

    Files that only the mounts needed are removed.
    """
    recover(folder)
    for point in reversed(mounts_below(folder)):
        seen, plain = Path(point), Path(f"{point}.plain")
        if seen.name == MERGED and seen.parent.name.startswith(SCRATCH):
            _call("umount2", os.fsencode(point), _MNT_DETACH)
            continue
        plain.mkdir()
        copy_as_it_is(seen, plain)
        _call("umount2", os.fsencode(point), _MNT_DETACH)
        remove_tree(seen, folder)
        plain.rename(seen)
    for scratch in (folder / VIEW, *folder.glob(f"{SCRATCH}*")):
        with suppress(OSError):
            remove_tree(scratch, folder)


def recover(folder: Path) -> None:
    """Recreate as plain files the contents of mounts that ended with their process's namespace."""
    for scratch in sorted(folder.glob(f"{SCRATCH}*"), key=_number):
        with suppress(FileNotFoundError):
            lower, target = map(os.fsdecode, (scratch / _WHAT).read_bytes().split(b"\0"))
            if target not in mounts_below(folder):
                with suppress(FileNotFoundError):  # it may have been evicted
                    Path(lower).stat()
                    Path(target).mkdir(exist_ok=True)
                    copy_as_it_is(Path(lower), Path(target))
                _apply(scratch / "upper", Path(target))
            (scratch / _WHAT).unlink()


def _number(scratch: Path) -> int:
    """The position of a mount in the order of mounting."""
    return int(scratch.name.removeprefix(SCRATCH))


def _apply(upper: Path, target: Path) -> None:
    """Move the changes of an overlay to their visible places, see the kernel's overlayfs.rst."""
    pending = [(upper, target)]
    while pending:
        changes, seen = pending.pop()
        seen.mkdir(mode=0o700, exist_ok=True)
        for change in changes.iterdir():
            place, kind = seen / change.name, stat.S_IFMT(change.lstat().st_mode)
            joins = kind == stat.S_IFDIR and not _is_opaque(change)
            if place.is_symlink() or not place.is_dir():
                place.unlink(missing_ok=True)
            elif not joins:
                remove_tree(place, target)
            if joins:
                pending.append((change, place))
            elif kind != stat.S_IFCHR:  # a device stands for something removed
                change.replace(place)


def _is_opaque(folder: Path) -> bool:
    """Whether a folder of the changes replaced one that was removed."""
    try:
        return os.getxattr(folder, "user.overlay.opaque") == b"y"
    except OSError:
        return False


def mounts_below(folder: Path) -> list[str]:
    """The mounts at or below ``folder``, in the order of mounting."""
    try:
        mounts = mountinfo.read()
    except OSError:
        return []
    if mountinfo.escaped(folder.name) not in mounts:
        return []
    inside = os.path.realpath(folder)
    if mountinfo.escaped(inside) not in mounts:
        return []
    points = [mountinfo.unescaped(line.split()[4]) for line in mounts.splitlines()]
    return [p for p in points if p == inside or p.startswith(f"{inside}/")]


def why_not(folder: Path) -> str | None:
    """Why this process cannot mount overlays in ``folder``, an empty one; None if it can."""
    if sys.platform != "linux":
        return "only Linux has overlay mounts"
    if os.geteuid() != 0 and not _State.in_namespace:
        return "only root, or a task in a process of its own, may mount"
    try:
        for name in ("lower", "target"):
            (folder / name).mkdir()
        mount(folder / "lower", folder / "target", folder / "scratch")
    except OSError as exc:
        return f"the kernel refuses an overlay mount: {exc.strerror or exc}"
    unmount_below(folder)
    return None


def why_not_whole(folder: Path) -> str | None:
    """Like `why_not`, for `mount_whole`."""
    if why := why_not(folder):
        return why
    if _State.in_namespace:
        return "the kernel lets only root rename folders of an overlay"
    try:
        for name in ("trees/tree/a", "view", "whole"):
            (folder / name).mkdir(parents=True)
        (folder / "view" / VIEW_TASK).mkdir()
        show_tree(folder / "view" / VIEW_TASK / "shown", "tree")
        mount_whole(folder / "view", folder / "trees", folder / "whole", folder / "changes")
        (folder / "whole/shown/a").rename(folder / "whole/b")
        (folder / "whole/shown").rename(folder / "whole/other")
    except OSError as exc:
        return f"the kernel refuses an overlay that can be renamed: {exc.strerror or exc}"
    finally:
        unmount_below(folder)
    return None


def enter_namespace() -> bool:
    """Give this process its own mount namespace; returns whether it worked.

    For a process with one thread that is not root. It keeps its user and group; other users and
    groups appear as nobody. A child tries it first, since a process that got only half-way would be
    nobody.
    """
    child = os.fork()
    if child == 0:
        os._exit(0 if _entered() else 1)
    _, status = os.waitpid(child, 0)
    _State.in_namespace = status == 0 and _entered()
    return _State.in_namespace


def _entered() -> bool:
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="utf-8")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="utf-8")
        _call("mount", None, b"/", None, _MS_REC_PRIVATE, None)
    except OSError:
        return False
    return True


def _call(name: str, *args: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)

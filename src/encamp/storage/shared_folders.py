"""Folders that hosts share, and paths in a form for all hosts."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import msgspec

from encamp.errors import BadJob, UnusableInput
from encamp.storage.real_paths import is_below, real_folder, why_not_absolute

MIRRORED = "PARALLEL_MIRRORED_STORAGE"


class SharedPath(msgspec.Struct, frozen=True):
    """A path in a form for all hosts: the number of its shared root, and the rest."""

    root: int
    rest: str


Portable = SharedPath | str
"""A path as it is sent: relative to its shared root, or unchanged if it is in none."""


def shared_roots() -> list[Path]:
    """The folders named in PARALLEL_MIRRORED_STORAGE, in order; the home folder by default.

    Symlinks are resolved. Raises `BadJob` for a name that is not an absolute path.
    """
    given = os.environ.get(MIRRORED)
    if not given:
        home = os.path.expanduser("~")
        return [real_folder(home)] if home.startswith("/") else []
    return [_shared_root(name) for name in given.split(os.pathsep) if name]


def _shared_root(name: str) -> Path:
    path = os.path.expanduser(name)
    if not path.startswith("/"):
        raise BadJob(f"{MIRRORED} names {name!r}", why_not_absolute(path))
    return real_folder(path)


def to_abstract(path: Path | str, roots: list[Path] | None = None) -> SharedPath | None:
    """``path`` as a `SharedPath`, or None if it is in no shared root; ``roots`` are `shared_roots`.

    If several roots contain it, the longest counts. Symlinks are resolved on both sides, and whole
    components are compared, so ``/home2/x`` is not in ``/home``.
    """
    return in_root(os.path.realpath(path), shared_roots() if roots is None else roots)


def in_root(real: str, roots: list[Path]) -> SharedPath | None:
    """`to_abstract` of a real path."""
    found = None
    for number, root in enumerate(map(str, roots)):
        if is_below(real, root) and (found is None or len(root) > len(str(roots[found]))):
            found = number
    if found is None:
        return None
    return SharedPath(found, real[len(str(roots[found])) :].lstrip("/") or ".")


def to_actual(shared: SharedPath) -> Path:
    """The path of ``shared`` on this host; raises `UnusableInput` if this host has fewer roots."""
    roots = shared_roots()
    if shared.root >= len(roots):
        why = f"shared root {shared.root + 1} is needed, but {MIRRORED} here names {len(roots)}"
        raise UnusableInput(shared.rest, why)
    return roots[shared.root] / shared.rest


def portable(path: Path | str) -> Portable:
    """``path`` in the form that is sent to other hosts, with symlinks resolved."""
    real = os.path.realpath(path)
    return in_root(real, shared_roots()) or real


def portable_name(path: Path) -> Portable:
    """`portable` without resolving symlinks, whatever is at the path by now."""
    return in_root(str(path), shared_roots()) or str(path)


def with_name(path: Portable, name: str) -> Portable:
    """The path of a sibling in the folder of ``path``."""
    if isinstance(path, SharedPath):
        return SharedPath(path.root, str(PurePosixPath(path.rest).with_name(name)))
    return f"{path.rpartition('/')[0]}/{name}"


def below(folder: Portable, name: str) -> Portable:
    """The path of ``name`` in a folder."""
    if isinstance(folder, SharedPath):
        rest = "" if folder.rest == "." else folder.rest
        return SharedPath(folder.root, os.path.join(rest, name))  # noqa: PTH118
    return os.path.join(folder, name)  # noqa: PTH118


def name_of(path: Portable) -> str:
    """The path in a message, even in a shared root that this host does not have."""
    return path.rest if isinstance(path, SharedPath) else path


def local(path: Portable) -> Path:
    """The path on this host that was sent as ``path``."""
    return to_actual(path) if isinstance(path, SharedPath) else Path(path)

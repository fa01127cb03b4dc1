"""What is to be in a task's folder: mirror maps, and the plan made of one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Literal

from encamp.errors import BadJob, NoMatch, TargetConflict, UnsafeTarget, UnusableInput
from encamp.storage.roots import Portable, local, local_storage_path, portable


@dataclass(frozen=True)
class Mirror:
    """Files to put into a task's folder before it starts.

    pattern
        Path or glob on the spawning host, relative to the current folder.
        ``*``, ``?`` and ``[...]`` do not match a leading dot; ``**`` matches folders to any
        depth without following symlinks. A path that exists is taken as it is, so names with
        brackets need no escape. A folder is mirrored as a tree, its symlinks kept as
        symlinks; a symlink to a file is mirrored as the file.
    to
        Folder inside the task's folder. Matches keep their name there; with ``**`` they also
        keep the folders that ``**`` stood for.
    rename
        New name for the match; ``{name}``, ``{stem}`` and ``{suffix}`` stand for the match's.
    exclude
        Glob patterns to leave out, of names (``*.bak``) or of paths below a tree (``tmp/*``).
    required
        Whether a pattern that matches nothing is an error (`NoMatch`).
    """

    pattern: str
    to: str = "."
    rename: str | None = None
    exclude: tuple[str, ...] = ()
    required: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", os.fspath(self.pattern))
        object.__setattr__(self, "to", os.fspath(self.to))
        exclude = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        object.__setattr__(self, "exclude", exclude)


MirrorMap = Mapping[str, str] | Iterable[Mirror | str] | Mirror | str
"""``{pattern: folder}``, or `Mirror` objects, or bare patterns for the top of the folder."""


def as_mirrors(spec: MirrorMap) -> tuple[Mirror, ...]:
    """Any form of a mirror map as `Mirror` objects."""
    if isinstance(spec, Mirror):
        return (spec,)
    if isinstance(spec, str | Path):
        return (Mirror(str(spec)),)
    if isinstance(spec, Mapping):
        return tuple(Mirror(str(pattern), str(to)) for pattern, to in spec.items())
    return tuple(item if isinstance(item, Mirror) else Mirror(str(item)) for item in spec)


@dataclass(frozen=True)
class Item:
    """One file or tree of a plan: where it is, and where in the task's folder it goes.

    ``size`` and ``mtime_ns`` are the file's when the plan was made; of a tree, the sum over its
    files and the time of the newest.
    """

    source: Portable
    target: str
    kind: Literal["file", "tree"]
    size: int
    mtime_ns: int
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """What stands at one path of a tree, the path relative to the tree."""

    path: str
    kind: Literal["file", "folder", "link"]
    status: os.stat_result


def find(pattern: str, base: Path) -> list[Path]:
    """The files and folders that match, sorted; a path that exists is its own only match."""
    if not pattern or "\0" in pattern:
        raise BadJob(f"the pattern {pattern!r}", "is no path" if pattern else "is empty")
    literal = _literal(pattern, base)
    if os.path.lexists(literal):
        return [Path(os.path.abspath(literal))]
    from wcmatch import glob

    flags = glob.GLOBSTAR | glob.GLOBTILDE
    try:
        found = glob.glob(pattern, flags=flags, root_dir=str(base))
    except (ValueError, OSError) as exc:
        raise BadJob(f"the pattern {pattern!r}", str(exc)) from exc
    return sorted(Path(os.path.abspath(base / match)) for match in found)


def _literal(pattern: str, base: Path) -> Path:
    return base / os.path.expanduser(pattern)


def globstar_depth(pattern: str, base: Path) -> int | None:
    """How many parts of a match stand before what the pattern's first ``**`` stands for.

    None if the pattern has no ``**``, or is the name of something.
    """
    literal = _literal(pattern, base)
    if "**" not in literal.parts or os.path.lexists(literal):
        return None
    before = literal.parts[: literal.parts.index("**")]
    return len(Path(os.path.abspath(Path(*before))).parts)


def plan(mirrors: Iterable[Mirror], base: Path) -> list[Item]:
    """Look up the mirrors' patterns in ``base``.

    Raises `NoMatch`, `UnusableInput`, `UnsafeTarget` or `TargetConflict`.
    """
    items: dict[str, Item] = {}
    for mirror in mirrors:
        for item in _items(mirror, base):
            other = items.setdefault(item.target, item)
            if other is not item and other != item:
                raise TargetConflict(item.target, _name(other.source), _name(item.source))
    return sorted(items.values(), key=lambda item: (item.kind == "file", item.target))


def _name(path: Portable) -> str:
    return str(local(path))


def _items(mirror: Mirror, base: Path) -> Iterator[Item]:
    folder = safe_target(mirror.to)
    depth = globstar_depth(mirror.pattern, base)
    found = False
    for path in find(mirror.pattern, base):
        inner = PurePosixPath(*path.parts[depth:]) if depth else PurePosixPath(path.name)
        if _left_out(inner, mirror.exclude):
            continue
        if depth and path.is_dir():
            continue  # ``**`` names the files below it; their folders come with them
        found = True
        name = renamed(mirror.rename, path.name)
        yield item_of(path, str(folder / inner.parent / name), mirror.exclude)
    if mirror.required and not found:
        raise NoMatch(mirror.pattern, str(base))


def _left_out(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """Whether a path, or a folder that it is in, is excluded."""
    ways = (path, *path.parents[:-1])
    return any(excluded(way.name, str(way), patterns) for way in ways)


def renamed(template: str | None, name: str) -> str:
    """``name`` after a rename such as ``"{stem}-old{suffix}"``; raises `BadJob` for a bad one."""
    if template is None:
        return name
    path = PurePosixPath(name)
    try:
        new = template.format(name=name, stem=path.stem, suffix=path.suffix)
    except (KeyError, IndexError, ValueError, AttributeError):
        known = "{name}, {stem} and {suffix}"
        raise BadJob(f"the new name {template!r}", f"may hold {known} only") from None
    if new in ("", ".", "..") or "/" in new:
        raise UnsafeTarget(new, "is not a file name")
    return new


def safe_target(target: str) -> PurePosixPath:
    """``target`` as a relative path; raises `UnsafeTarget` if it would leave the folder."""
    path = PurePosixPath(target or ".")
    if path.is_absolute() or target.startswith("~"):
        raise UnsafeTarget(target, "is absolute")
    if ".." in path.parts:
        raise UnsafeTarget(target, "leaves the task's folder by '..'")
    if "\0" in target:
        raise UnsafeTarget(target, "holds a null byte")
    return path


def item_of(path: Path, target: str, exclude: tuple[str, ...] = ()) -> Item:
    """One input as an `Item`; raises `UnusableInput` if it is missing, unreadable or special."""
    try:
        status = path.stat()
    except OSError as exc:
        raise UnusableInput(str(path), _why(exc)) from exc
    if stat.S_ISDIR(status.st_mode):
        _check_tree(path)
        files = [entry.status for entry in walk(path, exclude) if entry.kind == "file"]
        newest = max((status.st_mtime_ns for status in files), default=0)
        size = sum(status.st_size for status in files)
        return Item(portable(path), target, "tree", size, newest, exclude)
    _check_file(path, status)
    return Item(portable(path), target, "file", status.st_size, status.st_mtime_ns)


def _check_tree(path: Path) -> None:
    """The folders of the local storage that hold sandboxes would be copied into themselves."""
    own = os.path.realpath(local_storage_path())
    real = os.path.realpath(path)
    if real == own or os.path.dirname(real) == own:  # noqa: PTH120
        raise UnusableInput(str(path), "it is the local storage, where the copy would be")


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnusableInput(str(path), f"it is {_special(status)}, not a file or folder")
    if not os.access(path, os.R_OK):
        raise UnusableInput(str(path), "permission denied")


def _why(exc: OSError) -> str:
    if isinstance(exc, FileNotFoundError):
        return "it is not there (a broken symlink?)"
    return (exc.strerror or str(exc)).lower()


def _special(status: os.stat_result) -> str:
    kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(status.st_mode)), "a device")


def walk(tree: Path, exclude: tuple[str, ...] = ()) -> Iterator[Entry]:
    """All entries of a tree, folders before what is in them, in a fixed order.

    The local storage is left out where the tree holds it. Raises `UnusableInput`.
    """
    own = os.path.realpath(local_storage_path())
    pending = [""]
    while pending:
        inner = pending.pop()
        folders = []
        for found in _listed(tree / inner):
            path = f"{inner}/{found.name}" if inner else found.name
            if excluded(found.name, path, exclude):
                continue
            entry = _entry(found, path)
            if entry is None:
                continue  # it went away since the folder was listed
            if entry.kind == "folder":
                if os.path.realpath(found.path) == own:
                    continue
                folders.append(path)
            yield entry
        pending.extend(reversed(folders))


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as exc:
        raise UnusableInput(str(folder), _why(exc)) from exc


def _entry(found: os.DirEntry[str], path: str) -> Entry | None:
    try:
        status = found.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, "link", status)
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, "folder", status)
    if not stat.S_ISREG(status.st_mode):
        why = f"it is {_special(status)}; leave it out with exclude={found.name!r}"
        raise UnusableInput(found.path, why)
    return Entry(path, "file", status)


def excluded(name: str, path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name, or a path below a tree, is matched by one of the exclude patterns."""
    wanted = (pattern.rstrip("/") for pattern in patterns)
    return any(fnmatch(path if "/" in p else name, p) for p in wanted)


def identity(items: Iterable[Item]) -> list[tuple[str, ...]]:
    """What tells one state of the inputs from another: paths, targets, sizes, times, links."""
    return sorted(line for item in items for line in _identity_lines(item))


def _identity_lines(item: Item) -> Iterator[tuple[str, ...]]:
    name = str(item.source)
    if item.kind == "file":
        yield (name, item.target, str(item.size), str(item.mtime_ns))
        return
    tree = local(item.source)
    yield (name, item.target, "tree", "")
    for entry in walk(tree, item.exclude):
        inner = f"{item.target}/{entry.path}"
        if entry.kind == "file":
            yield (name, inner, str(entry.status.st_size), str(entry.status.st_mtime_ns))
        else:
            goal = os.readlink(tree / entry.path) if entry.kind == "link" else ""
            yield (name, inner, entry.kind, goal)

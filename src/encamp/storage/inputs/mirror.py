"""The inputs of a task: mirror maps, and the plan made from one."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal, get_args

import msgspec

from encamp.errors import BadJob, NoMatch, TargetConflict, UnsafeTarget, UnusableInput, printable
from encamp.storage.disk.copy_file import check_size
from encamp.storage.disk.disk_kind import LastingNumbers
from encamp.storage.disk.holes import allocated
from encamp.storage.inputs.exclude import path_excluded
from encamp.storage.inputs.globs import escape, is_glob, matches
from encamp.storage.inputs.skipped_folders import SkippedFolders
from encamp.storage.inputs.tree import TreeState, special, tree_state, why_unusable
from encamp.storage.local_storage import local_storage_path
from encamp.storage.parse_map import parse_map
from encamp.storage.shared_folders import Portable, SharedPath, below, local, portable
from encamp.storage.urls import find_remote, is_url, without_scheme

Mode = Literal["auto", "overlay", "reflink", "link", "copy"]
_MODES = get_args(Mode)


@dataclass(frozen=True, slots=True)
class Mirror:
    """Files to put into a task's folder before it starts.

    pattern
        Path or glob on the spawning host, relative to the current folder; or a URL that fsspec
        knows (``s3://bucket/data/*.las``), which is downloaded to each host once.
        ``*``, ``?`` and ``[...]`` do not match a leading dot; ``**`` matches folders to any
        depth without following symlinks. A path that exists is taken literally, so names with
        brackets need no escape, unless other files match as well (`BadJob`). A folder is
        mirrored as a tree. A symlink in it stays a symlink if its target is in the same tree, or
        missing. A symlink that points outside the tree, or that is itself a match of the pattern,
        is replaced by a copy of its target.
    to
        Folder inside the task's folder. Matches keep their name there; with ``**`` they also
        keep the folders that ``**`` matched.
    rename
        New name for the match; ``{name}``, ``{stem}`` and ``{suffix}`` are those of the match.
    exclude
        Patterns to leave out of a folder. One without a slash matches names at any depth
        (``*.bak``), one with a slash matches paths from the top of the folder (``tmp/*``).
    required
        Whether a pattern that matches nothing is an error (`NoMatch`).
    readonly
        Promises that the task does not write to these files, so that they can be read-only links
        to this host's cache.
    executable
        Let everybody who can read these files execute them, too: for files from URLs, which have
        no permissions.
    mode
        How files get from the cache into the folder: "auto" chooses the cheapest safe way;
        "overlay", "reflink", "link" and "copy" require this way (`ModeRefused` if it is not
        possible).
    """

    pattern: str
    to: str = "."
    rename: str | None = None
    exclude: tuple[str, ...] = ()
    required: bool = True
    readonly: bool = False
    mode: Mode = "auto"
    executable: bool = False
    literal: bool = field(default=False, kw_only=True, compare=False, repr=False)
    """Whether ``pattern``, if a file has this name, means only it; always true for a `Path`."""

    def __post_init__(self) -> None:
        for given in (self.pattern, self.to):
            if not isinstance(given, str | os.PathLike):
                raise BadJob(f"mirror: {given!r}", "is not a path; give text, such as '.'")
        object.__setattr__(self, "literal", self.literal or isinstance(self.pattern, PurePath))
        object.__setattr__(self, "pattern", without_scheme(os.fspath(self.pattern)))
        object.__setattr__(self, "to", os.fspath(self.to))
        if self.mode not in _MODES:
            raise BadJob(f"the mode {self.mode!r}", f"must be one of {', '.join(_MODES)}")
        exclude = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        object.__setattr__(self, "exclude", exclude)


MirrorMap = Mapping[str, str] | Iterable[Mirror | str] | Mirror | str
"""``{pattern: folder}``, or `Mirror` objects, or bare patterns for the top of the folder."""


def as_mirrors(spec: MirrorMap) -> tuple[Mirror, ...]:
    """Any form of a mirror map as `Mirror` objects."""
    return parse_map(spec, Mirror, Mirror, _to, "mirror")


def _to(given: Any, to: Any) -> Mirror:
    return replace(given, to=to) if isinstance(given, Mirror) else Mirror(given, to)


class Item(msgspec.Struct, frozen=True):
    """One file or tree of a plan: its source, its state, and its target.

    ``size`` and ``mtime_ns`` are the file's when the plan was made; for a tree, the sum over its
    ``files`` and the time of the newest. ``content`` identifies the state of the input on any host;
    ``identity`` also differs if a different file has taken its place; ``version`` is like
    ``identity``, but uses only properties that survive a restart. ``allocated`` are the bytes that
    it takes on a disk, fewer than ``size`` for sparse files. ``cached`` means that several tasks
    may need it.
    """

    source: Portable
    target: str
    kind: Literal["file", "tree"]
    size: int
    mtime_ns: int
    permissions: int
    files: int
    content: str
    identity: str
    version: str
    allocated: int
    exclude: tuple[str, ...] = ()
    mode: Mode = "auto"
    readonly: bool = False
    cached: bool = True

    @property
    def name(self) -> str:
        """The name of the source on this host, for messages."""
        try:
            return self.url or printable(local(self.source))
        except UnusableInput as exc:  # this host has fewer shared roots
            return printable(exc.path)

    @property
    def url(self) -> str | None:
        """The source, if it is a URL."""
        return str(self.source) if is_url(self.source) else None


def find(pattern: str, base: Path, *, literal: bool = False) -> list[Path]:
    """The matching files and folders, sorted; a path that exists is its only match.

    Raises `BadJob` for a pattern that is the name of a file but matches others as well, unless
    it is known to be ``literal``.
    """
    if not pattern or "\0" in pattern:
        raise BadJob(f"the pattern {pattern!r}", "is not a path" if pattern else "is empty")
    name = os.path.abspath(os.path.join(base, os.path.expanduser(pattern)))  # noqa: PTH118
    if not os.path.lexists(name):
        return _globbed(pattern, base)
    path = Path(name)
    if not literal:
        _check_only_match(pattern, path, base)
    return [path]


def _globbed(pattern: str, base: Path) -> list[Path]:
    above, _, name = pattern.rpartition("/")
    if not is_glob(pattern) and not _MORE_THAN_A_NAME.search(pattern):
        return []
    if not (_MORE_THAN_A_NAME.search(pattern) or is_glob(above)):
        return _listed(name, base / (above or pattern[: -len(name)]))
    try:
        found = _by_wcmatch(pattern, base)
    except RecursionError:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + _DEEPEST)
        try:
            found = _by_wcmatch(pattern, base)
        finally:
            sys.setrecursionlimit(limit)
    return sorted(Path(os.path.abspath(base / match)) for match in found)


def _by_wcmatch(pattern: str, base: Path) -> list[str]:
    """The matches; wcmatch calls itself once for each level of folders."""
    from wcmatch import glob

    flags = glob.GLOBSTAR | glob.GLOBTILDE
    try:
        return glob.glob(pattern, flags=flags, root_dir=str(base))
    except (ValueError, OSError) as exc:
        raise BadJob(f"the pattern {pattern!r}", str(exc)) from exc


_DEEPEST = 2048
"""Maximum number of folders in a path: it has 4096 bytes."""


_MORE_THAN_A_NAME = re.compile(r"^~|\\|\*\*|/$|[\[\]{}]")
"""Matches patterns that are for more than the names in one folder."""


def _listed(pattern: str, folder: Path) -> list[Path]:
    """The entries of a folder that match a pattern; equal to wcmatch's result, but faster."""
    try:
        names = sorted(name for name in os.listdir(folder) if matches(pattern, name))
    except OSError:  # it is not there, or cannot be listed
        return []
    folder = Path(os.path.abspath(folder))
    return [folder / name for name in names]


def other_matches(pattern: str, literal: Path, base: Path) -> list[Path]:
    """The matches of a pattern, except the file whose name it is."""
    return [path for path in _globbed(pattern, base) if path != literal] if is_glob(pattern) else []


def _check_only_match(pattern: str, literal: Path, base: Path) -> None:
    if others := other_matches(pattern, literal, base):
        also = printable(os.path.relpath(others[0], base))
        raise BadJob(
            f"the pattern {pattern!r}",
            f"is the name of a file, but matches {also} as well; write {escape(pattern)!r} "
            "for that file alone, or rename it",
        )


def _literal(pattern: str, base: Path) -> Path:
    return base / os.path.expanduser(pattern)


def globstar_depth(pattern: str, base: Path) -> int | None:
    """How many parts of a match precede those that the pattern's first ``**`` matched.

    None if the pattern has no ``**``, or is the name of something.
    """
    if "**" not in pattern:
        return None
    literal = _literal(pattern, base)
    if "**" not in literal.parts or os.path.lexists(literal):
        return None
    before = literal.parts[: literal.parts.index("**")]
    return len(Path(os.path.abspath(Path(*before))).parts)


def plan(mirrors: Iterable[Mirror], base: Path) -> list[Item]:
    """`Planner.plan` for patterns that start from ``base``."""
    return Planner(base).plan(mirrors)


class Planner:
    """Looks up patterns; examines each tree only once.

    Folders that are ``left_out`` (by their real paths) do not match, except for patterns that begin
    with their path.
    """

    def __init__(self, base: Path, left_out: Iterable[Path] = ()) -> None:
        self._base = base
        self.left_out = tuple(left_out)
        self._trees: dict[tuple[Path, tuple[str, ...]], TreeState] = {}
        self._top = str(base)
        self._numbers = LastingNumbers()
        self._folders = lru_cache(maxsize=1024)(portable)
        self._targets = lru_cache(maxsize=1024)(safe_target)

    def plan(self, mirrors: Iterable[Mirror]) -> list[Item]:
        """The inputs that the mirrors' patterns match, trees first.

        Raises `NoMatch`, `UnusableInput`, `UnsafeTarget` or `TargetConflict`.
        """
        return merged([item for mirror in mirrors for item in self._items(mirror)])

    def _items(self, mirror: Mirror) -> Iterator[Item]:
        if (plain := self._plain_file(mirror)) is not None:
            yield plain
            return
        folder = safe_target(mirror.to)
        if is_url(mirror.pattern):
            yield from _remote_items(mirror, folder)
            return
        depth = globstar_depth(mirror.pattern, self._base)
        skipped = self.skipped(mirror) if is_glob(mirror.pattern) else None
        found, but = False, ""
        for path in find(mirror.pattern, self._base, literal=mirror.literal):
            inner = PurePosixPath(*path.parts[depth:]) if depth else PurePosixPath(path.name)
            if path_excluded(inner, mirror.exclude):
                but = "all its matches are excluded"
                continue
            if skipped and skipped.holds(path):
                but = _SKIPPED
                continue
            if depth and path.is_dir():
                but = "it matches folders, but '**' is for files"
                continue  # ``**`` names the files below it; their folders come with them
            found = True
            name = renamed(mirror.rename, path.name)
            yield self.item(path, str(folder / inner.parent / name), mirror, skipped)
        if mirror.required and not found:
            raise NoMatch(mirror.pattern, str(self._base), but=but)

    def _plain_file(self, mirror: Mirror) -> Item | None:
        """The input of a mirror that names one file and needs no search.

        Jobs have a million of them: each costs two system calls.
        """
        pattern = mirror.pattern
        if mirror.exclude or not _is_plain(pattern):
            return None
        path = f"{self._top}/{pattern}" if pattern[0] != "/" else pattern
        try:
            status = os.lstat(path)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        folder, _, name = path.rpartition("/")
        to = self._targets(mirror.to)
        new = renamed(mirror.rename, name)
        target = str(to / new) if to.parts else new
        state = _file_state(path, status, self._numbers)
        return _file_item(below(self._folders(folder or "/"), name), target, mirror, status, state)

    def skipped(self, mirror: Mirror) -> SkippedFolders:
        """The folders that a pattern does not search."""
        return SkippedFolders.of(mirror.pattern, self._base, self.left_out)

    def item(
        self, path: Path, target: str, mirror: Mirror, skipped: SkippedFolders | None = None
    ) -> Item:
        """One file or folder as an input. Raises `UnusableInput`."""
        try:
            status = path.stat()
        except OSError as exc:
            raise UnusableInput(str(path), why_unusable(exc)) from exc
        if not stat.S_ISDIR(status.st_mode):
            state = _file_state(path, status, self._numbers)
            return _file_item(self._place(path), target, mirror, status, state)
        exclude = self._exclude(path, mirror, skipped)
        state, source = self._tree(path, exclude), portable(path)
        permissions = stat.S_IMODE(status.st_mode)
        return Item(
            source,
            target,
            "tree",
            state.size,
            state.mtime_ns,
            permissions,
            state.files,
            state.content,
            _identity(source, status, state, permissions),
            state.version,
            state.allocated,
            exclude,
            mirror.mode,
            mirror.readonly or mirror.mode == "link",
        )

    def _place(self, file: Path) -> Portable:
        """As `portable`, with a cache for folders of many files."""
        if file.is_symlink():
            return portable(file)
        return below(self._folders(str(file.parent)), file.name)

    def leads_to(self, tree: Path, mirror: Mirror) -> tuple[str, ...]:
        """The targets of symlinks that lead out of a tree. Raises `UnusableInput`."""
        return self._tree(tree, self._exclude(tree, mirror, None)).leads_to

    def _exclude(
        self, tree: Path, mirror: Mirror, skipped: SkippedFolders | None
    ) -> tuple[str, ...]:
        return (*mirror.exclude, *(skipped or self.skipped(mirror)).below(tree))

    def _tree(self, path: Path, exclude: tuple[str, ...]) -> TreeState:
        if (path, exclude) not in self._trees:
            _check_tree(path)
            self._trees[path, exclude] = tree_state(path, exclude)
        return self._trees[path, exclude]


def _is_plain(pattern: str) -> bool:
    """Whether a pattern is a literal path."""
    if is_glob(pattern) or is_url(pattern) or pattern.startswith("~") or "\0" in pattern:
        return False
    return pattern != "" and not {"", ".", ".."}.intersection(pattern.removeprefix("/").split("/"))


def _file_item(
    source: Portable, target: str, mirror: Mirror, status: os.stat_result, state: TreeState
) -> Item:
    plain = stat.S_IMODE(status.st_mode)
    permissions = _executable(plain) if mirror.executable else plain
    return Item(
        source,
        target,
        "file",
        state.size,
        state.mtime_ns,
        permissions,
        state.files,
        state.content,
        _identity(source, status, state, permissions),
        state.version + (_EXECUTABLE if permissions != plain else ""),
        state.allocated,
        (),
        mirror.mode,
        mirror.readonly or mirror.mode == "link",
    )


def merged(items: Iterable[Item]) -> list[Item]:
    """Items for one folder, without duplicates, trees first; raises `TargetConflict`."""
    found: dict[str, Item] = {}
    for item in items:
        other = found.setdefault(item.target, item)
        if other is not item and other != item:
            raise TargetConflict(item.target, other.name, item.name)
    return sorted(found.values(), key=lambda item: (item.kind == "file", item.target))


_EXECUTABLE = " executable"
_SKIPPED = (
    "its matches are in the job's destination, which is searched only by patterns that start there"
)


def _executable(permissions: int) -> int:
    """Permissions that let everybody who may read a file execute it."""
    return permissions | (permissions & 0o444) >> 2


def _identity(source: Portable, status: os.stat_result, state: TreeState, permissions: int) -> str:
    tree = stat.S_ISDIR(status.st_mode)
    numbers = (status.st_ino, status.st_dev)
    facts = repr((source, tree, state.identity, state.version, permissions, *numbers))
    return hashlib.blake2b(os.fsencode(facts), digest_size=20).hexdigest()


def is_here(item: Item) -> bool:
    """Whether this host sees an input as it was planned, and not a different file with its name.

    In a shared root, sizes and times are compared; elsewhere it must be the very same file or tree.
    """
    try:
        path = local(item.source)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode) != (item.kind == "tree"):
            return False
        tree = item.kind == "tree"
        state = (
            tree_state(path, item.exclude) if tree else _file_state(path, status, LastingNumbers())
        )
        if isinstance(item.source, SharedPath):
            return state.content == item.content
        permissions = stat.S_IMODE(status.st_mode)
        same = _identity(item.source, status, state, item.permissions) == item.identity
        return same and item.permissions in (permissions, _executable(permissions))
    except (OSError, UnusableInput):  # or this host has fewer shared roots
        return False


def _remote_items(mirror: Mirror, folder: PurePosixPath) -> Iterator[Item]:
    found = False
    for file in find_remote(mirror.pattern):
        if path_excluded(file.inner, mirror.exclude):
            continue
        found = True
        name = renamed(mirror.rename, file.inner.name)
        target = str(folder / file.inner.parent / name)
        facts = repr((file.url, file.size, file.state))
        content = hashlib.blake2b(facts.encode(), digest_size=20).hexdigest()
        readonly = mirror.readonly or mirror.mode == "link"
        permissions = 0o755 if mirror.executable else 0o644
        identity = content + (".x" if mirror.executable else "")
        yield Item(
            file.url, target, "file", file.size, file.mtime_ns, permissions, 1, content, identity,
            identity, file.size, mode=mirror.mode, readonly=readonly,
        )  # fmt: skip
    if mirror.required and not found:
        raise NoMatch(mirror.pattern, "its place")


def renamed(template: str | None, name: str) -> str:
    """``name`` after a rename such as ``"{stem}-old{suffix}"``; raises `BadJob` for a bad one."""
    if template is None:
        return name
    path = PurePosixPath(name)
    try:
        new = template.format(name=name, stem=path.stem, suffix=path.suffix)
    except (KeyError, IndexError, ValueError, AttributeError):
        known = "{name}, {stem} and {suffix}"
        raise BadJob(f"the new name {template!r}", f"can contain only {known}") from None
    if new in ("", ".", "..") or "/" in new:
        raise UnsafeTarget(new, "is not a file name")
    return new


def safe_target(target: str) -> PurePosixPath:
    """``target`` as a relative path; raises `UnsafeTarget` if it is outside the folder."""
    path = PurePosixPath(target or ".")
    if path.is_absolute() or target.startswith("~"):
        raise UnsafeTarget(target, "is absolute")
    if ".." in path.parts:
        raise UnsafeTarget(target, "leaves the task's folder through '..'")
    if "\0" in target:
        raise UnsafeTarget(target, "contains a null byte")
    return path


def _check_tree(path: Path) -> None:
    """Refuse a tree with the local storage's sandboxes, which would be copied into themselves."""
    own = os.path.realpath(local_storage_path())
    real = os.path.realpath(path)
    if real == own or os.path.dirname(real) == own:  # noqa: PTH120
        raise UnusableInput(str(path), "it is the local storage, where the copy would be")


def _file_state(path: Path | str, status: os.stat_result, numbers: LastingNumbers) -> TreeState:
    if not stat.S_ISREG(status.st_mode):
        raise UnusableInput(str(path), f"it is {special(status)}, not a file or folder")
    if not os.access(path, os.R_OK):
        raise UnusableInput(str(path), "permission denied")
    check_size(path, status)
    content = f"{status.st_size} {status.st_mtime_ns}"
    version = f"{content} {numbers.of(path, status)}"
    room = allocated(status)
    return TreeState(1, status.st_size, status.st_mtime_ns, content, content, version, room)


def identity(items: Iterable[Item]) -> list[tuple[str, str, str]]:
    """The states of the inputs; equal for equal states, whenever they are planned."""
    return sorted((str(item.source), item.target, item.version) for item in items)

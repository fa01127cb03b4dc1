"""Computes which paths a mirror pattern may read and an output may get, before they exist."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from encamp.storage.disk.one_name import one_name
from encamp.storage.inputs.globs import escape, is_glob, may_meet
from encamp.storage.inputs.mirror import Mirror, renamed
from encamp.storage.inputs.skipped_folders import split
from encamp.storage.outputs.patterns import Output
from encamp.storage.urls import is_url, url_parts

BELOW = "**"
"""Matches everything below a folder, as in patterns."""


@dataclass(frozen=True)
class Reach:
    """Paths that begin with the folders ``start`` and continue with matches of ``rest``.

    Both are given name by name; ``start`` is a real path, or a URL.
    """

    start: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def whole(self) -> tuple[str, ...]:
        """All names as one pattern."""
        return (*map(escape, self.start), *self.rest)


def published_by(output: Output, folder: Callable[[str], tuple[str, ...]]) -> Reach:
    """The names that an output may get; ``folder`` is made by `folders_below`."""
    name = output.pattern
    parts = (name,) if "/" not in name and name not in ("", ".") else PurePosixPath(name).parts
    parts = parts or (".",)
    name = _new_name(output.rename, parts[-1])
    if BELOW in parts:
        rest = (*parts[parts.index(BELOW) : -1], BELOW if parts[-1] == BELOW else name)
    else:
        rest = (name, BELOW)  # it may be a folder
    return Reach(folder(output.to), rest)


def folders_below(
    to: Path, real: Callable[[Path], str] = os.path.realpath
) -> Callable[[str], tuple[str, ...]]:
    """A function that returns the names of outputs' folders, with a cache.

    By default they are real paths, as in final names; `one_name` makes them comparable with inputs.
    """
    return lru_cache(maxsize=1024)(partial(_names, to, real))


def _names(base: Path, real: Callable[[Path], str], folder: str) -> tuple[str, ...]:
    if is_url(folder):
        return url_parts(folder)
    return Path(real(base / os.path.expanduser(folder))).parts


def _new_name(template: str | None, name: str) -> str:
    """A pattern for the new names of files that ``name`` matches."""
    if template is None or not is_glob(name):
        return name if template is None else escape(renamed(template, name))
    stem, dot, end = name.rpartition(".")
    suffix = dot + end
    if is_glob(suffix) or not stem:
        stem, suffix = "*", "*"
    try:
        return escape(template).format(name=name, stem=stem, suffix=suffix)
    except (KeyError, IndexError, ValueError, AttributeError):
        return "*"


def read_by(mirror: Mirror, base: Path) -> Reach:
    """The paths that a mirror pattern may read."""
    pattern = mirror.pattern
    if is_url(pattern):
        parts = url_parts(pattern)
        fixed = next((n for n, part in enumerate(parts) if is_glob(part)), len(parts))
        return Reach(parts[:fixed], (*parts[fixed:], BELOW))
    start, rest = split(pattern, base)
    if not rest:
        return read_at(start)
    below = () if BELOW in rest else (BELOW,)
    return Reach(Path(one_name(start)).parts, (*rest, *below))


def read_at(path: Path) -> Reach:
    """The paths that the name of one file or folder may read."""
    real = Path(one_name(path))
    return Reach(real.parts, () if real.is_file() else (BELOW,))


def symlinks_to(path: Path) -> Iterator[Path]:
    """The symlinks in a path, each as a real path except for its own name."""
    names = list(reversed(path.parts))
    here, seen = Path("/"), 0
    while names:
        name = names.pop()
        here = here.parent if name == os.pardir else here / name
        if here.is_symlink() and (seen := seen + 1) <= _MOST_SYMLINKS:
            yield here
            names.extend(reversed(here.readlink().parts))
            here = here.parent


_MOST_SYMLINKS = 40
"""Maximum number of symlinks that Linux follows, see path_resolution(7)."""


def may_make(output: Output, path: str, to: Path) -> bool:
    """Whether an output may be published as ``path``, a real path or a URL."""
    names = url_parts(path) if is_url(path) else Path(path).parts
    reach = published_by(output, folders_below(to))
    depth = len(reach.start)
    return names[:depth] == reach.start and may_meet(tuple(map(escape, names[depth:])), reach.rest)


def names_below(reach: Reach, read: Reach) -> list[str]:
    """The names, or patterns for them, of what ``reach`` publishes below a tree of ``read``."""
    top = len(read.start) if len(read.rest) < 2 else len(read.whole) - 1
    return [name for name in (*reach.start, *reach.rest)[top:] if name != BELOW]

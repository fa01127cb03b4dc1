"""Decides which final names are accepted from workers, and from a journal that others may change.

encamp opens, replaces or removes a file only if one of the task's declared outputs can have its
name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from encamp.errors import BadDestination, EncampError
from encamp.storage.disk.one_name import one_name
from encamp.storage.inputs.globs import escape, may_meet
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.possible_paths import Reach, folders_below, published_by
from encamp.storage.outputs.publish import final_name, staged_by
from encamp.storage.outputs.stage import Staged, unstage
from encamp.storage.shared_folders import name_of
from encamp.storage.urls import is_url, url_parts

_NOT_DECLARED = "no output of the task can have that name"
_NOT_STAGED = "its temporary file is not one of the task's"
_LONGEST = 4096
"""Characters of a path, see limits.h(0p), PATH_MAX."""
_DEEPEST = 200
"""Patterns are compared up to this depth below a destination."""


class Accepted(NamedTuple):
    """What may be published, and an error if that is not everything."""

    staged: list[Staged]
    error: BadDestination | None


def accepted(claimed: Iterable[Staged], token: str, allow: Callable[[str], bool]) -> Accepted:
    """Sort what a worker claims to have staged into what is accepted and what is not.

    A worker runs arbitrary code on any host. Files are touched only if they were staged beside
    their final names by the owner of ``token``, and published only if ``allow`` accepts these
    names; otherwise their temporary files are removed.
    """
    good, error = [], None
    for one in claimed:
        try:
            final, is_own = final_name(one.final), staged_by(one, token)
        except (EncampError, OSError, ValueError, IndexError):  # no path, or in no shared folder
            final, is_own = name_of(one.final), False
        if not is_own:
            error = BadDestination(final, _NOT_STAGED)
        elif not allow(final):
            error = BadDestination(final, _NOT_DECLARED)
            if _is_plain(final) and not is_url(final):  # others are left to the end of the run
                unstage([one])
        else:
            good.append(one)
    return Accepted(good, error)


class DeclaredNames:
    """The names that a job can publish: ``outputs`` are its tasks', ``to`` is its destination."""

    def __init__(self, to: Path, outputs: Iterable[Output]) -> None:
        self._folder = folders_below(to)
        self._top = lru_cache(maxsize=1024)(lambda folder: _joined(self._folder(folder)))
        self._reach = lru_cache(maxsize=4096)(partial(_reach_of, self._folder))
        by_one_name = partial(_reach_of, folders_below(to, one_name))
        self._reach_by_one_name = lru_cache(maxsize=4096)(by_one_name)
        starts = {self._folder(folder) for folder in {output.to for output in outputs}}
        self.may_be_published = below([to, *map(_joined, starts)])
        """Whether a path is below one of the job's destinations."""

    def reach(self, output: Output) -> Reach:
        """Where an output may lead; its folder has the `one_name` that it has as an input, too."""
        return self._reach_by_one_name(output.pattern, output.rename, output.to)

    def allow(self, outputs: Iterable[Output], path: str) -> bool:
        """Whether one of these outputs may be published as ``path``."""
        if any(self._is_name(output, path) for output in outputs):
            return True
        if not _is_plain(path):
            return False
        names = url_parts(path) if is_url(path) else ("/", *path.split("/")[1:])
        return any(self._may(output, names) for output in outputs)

    def _is_name(self, output: Output, path: str) -> bool:
        """Whether a path is that of an output without a pattern or folder."""
        name = output.pattern
        if output.rename is not None or "/" in name or name in ("", ".", ".."):
            return False
        return path == f"{self._top(output.to)}/{name}" and _is_plain(path)

    def _may(self, output: Output, names: tuple[str, ...]) -> bool:
        reach = self._reach(output.pattern, output.rename, output.to)
        depth = len(reach.start)
        inner = names[depth:]
        if names[:depth] != reach.start or not inner:
            return False
        if len(inner) > _DEEPEST or (output.rename is not None and "{" in output.rename):
            return True  # any name is possible below it
        # A file of a pattern's own name is its only match.
        own = PurePosixPath(output.rename or output.pattern).name
        return inner[0] == own or may_meet(tuple(map(escape, inner)), reach.rest)


def _reach_of(
    folder: Callable[[str], tuple[str, ...]], pattern: str, rename: str | None, to: str
) -> Reach:
    return published_by(Output(pattern, to, rename), folder)


def below(folders: Iterable[Path | str]) -> Callable[[str], bool]:
    """A function that returns whether a path is below one of some folders, which may be URLs."""
    tops = tuple([f"{_top(folder)}/" for folder in folders])

    def is_below(path: str) -> bool:
        name = "/".join(url_parts(path)) if is_url(path) else path
        return _is_plain(path) and name.startswith(tops)

    return is_below


def _top(folder: Path | str) -> str:
    is_place = isinstance(folder, str) and is_url(folder)
    return "/".join(url_parts(str(folder))) if is_place else os.path.realpath(folder).rstrip("/")


def _joined(start: tuple[str, ...]) -> str:
    return "/".join(start) if start[0] != "/" else str(Path(*start))


def _is_plain(path: str) -> bool:
    """Whether a path or URL is absolute, without ".."."""
    if not path or "\0" in path or len(path) > _LONGEST:
        return False
    if is_url(path):
        return not {"..", "."}.intersection(path.split("/"))
    return path.startswith("/") and os.path.normpath(path) == path

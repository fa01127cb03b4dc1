"""The files, symlinks and empty folders that a task's folder publishes.

A symlink is published as one if its target is published with it, below the same destination, so
that it still leads there. Otherwise its target is published: a file or, if a pattern matches the
symlink itself, a tree. Anything that cannot be published is an error: nothing is left out silently.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from encamp.errors import UnusableOutput, printable
from encamp.storage.inputs.globs import is_glob
from encamp.storage.inputs.mirror import find, globstar_depth, renamed
from encamp.storage.inputs.tree import special
from encamp.storage.outputs.patterns import Output

Kind = Literal["file", "link", "folder"]
"""The kind of a published entry; ``folder`` means an empty folder."""


class OutputFile(msgspec.Struct, frozen=True):
    """A file to publish: its path in the task's folder, and below its destination.

    ``target`` is where a symlink points at the destination.
    """

    path: str
    inner: PurePosixPath
    output: Output
    kind: Kind
    target: str = ""


class _Link(msgspec.Struct, frozen=True):
    """A symlink, until it is known what is published with it; ``top`` if a pattern matches it."""

    path: str
    inner: PurePosixPath
    output: Output
    top: bool


class Publishable:
    """Collects what the output patterns of one task match in its folder."""

    def __init__(
        self,
        folder: Path,
        task: str,
        *,
        lenient: bool = False,
        unchanged: Callable[[str], bool] | None = None,
    ) -> None:
        self._folder = folder
        self._unchanged = unchanged
        self.passed: list[OutputFile] = []
        """Unchanged inputs that patterns match; they are not outputs."""
        self._task = task
        self._lenient = lenient
        self._made: list[OutputFile] = []
        self._links: deque[_Link] = deque()
        self._top = f"{folder}/"
        self._inside = {str(folder)}
        self._homes: dict[str, list[tuple[object, PurePosixPath]]] = {}

    @cached_property
    def _real(self) -> str:
        return os.path.realpath(self._folder)

    @property
    def takes_inputs(self) -> bool:
        """Whether patterns match unchanged inputs, too."""
        return self._unchanged is None

    def add(self, output: Output) -> bool:
        """Add what a pattern matches; returns whether it matches anything.

        Like `all`, raises `UnusableOutput` for what cannot be published. With ``lenient`` that
        is left out instead.
        """
        before = len(self._made), len(self._links)
        matches = find(output.pattern, self._folder)
        if "/" in output.pattern:
            with self._errors_ignored():
                self._check_listable(output.pattern)
        depth = globstar_depth(output.pattern, self._folder)
        holders = {parent for match in matches for parent in match.parents} if depth else set()
        for match in matches:
            inner = PurePosixPath(*match.parts[depth:]) if depth else PurePosixPath(match.name)
            if inner.name:
                to = inner
                if output.rename is not None:
                    to = inner.parent / renamed(output.rename, match.name)
                path = self._below(str(match))
                with self._errors_ignored():
                    self._take(path, to, output, top=True, held=match in holders)
        return (len(self._made), len(self._links)) != before

    def _below(self, path: str) -> str:
        """A path relative to the task's folder."""
        inner = path.removeprefix(self._top)
        return os.path.relpath(path, self._folder) if inner == path else inner

    def all(self) -> list[OutputFile]:
        """Everything to publish, when all patterns were added."""
        links: list[_Link] = []
        while self._links:
            link = self._links.popleft()
            with self._errors_ignored():
                if not self._unfolded(link):
                    links.append(link)
        for link in links:
            with self._errors_ignored():
                self._made.append(self._resolved(link))
        return self._made

    def _take(
        self, path: str, inner: PurePosixPath, output: Output, *, top: bool, held: bool = False
    ) -> None:
        """Add one match.

        With ``held``, leave out the folder's contents, because the pattern matches them itself.
        """
        self._check_inside(path)
        status = os.lstat(self._top + path)
        if stat.S_ISDIR(status.st_mode):
            self._homes.setdefault(path, []).append((_base(output), inner))
            if not held:
                self._take_tree(path, inner, output)
        else:
            self._take_leaf(path, inner, output, status, top=top)

    def _take_leaf(
        self,
        path: str,
        inner: PurePosixPath,
        output: Output,
        status: os.stat_result,
        *,
        top: bool = False,
    ) -> None:
        if self._passes(path, inner, output):
            return
        self._homes.setdefault(path, []).append((_base(output), inner))
        if stat.S_ISLNK(status.st_mode):
            self._links.append(_Link(path, inner, output, top))
        elif stat.S_ISREG(status.st_mode):
            self._made.append(OutputFile(path, inner, output, "file"))
        else:
            raise self._refusal(path, f"it is {special(status)}; have the task remove it")

    def _take_tree(self, path: str, inner: PurePosixPath, output: Output) -> None:
        empty = True
        for below, status in entries_below(self._folder / path, lenient=self._lenient):
            empty = False
            made, to = os.path.join(path, below), inner / below  # noqa: PTH118
            if status is None:
                if not self._passes(made, to, output):
                    self._made.append(OutputFile(made, to, output, "folder"))
            elif stat.S_ISDIR(status.st_mode):
                self._homes.setdefault(made, []).append((_base(output), to))
            else:
                with self._errors_ignored():
                    self._take_leaf(made, to, output, status)
        if empty and not self._passes(path, inner, output):
            self._made.append(OutputFile(path, inner, output, "folder"))

    def _passes(self, path: str, inner: PurePosixPath, output: Output) -> bool:
        """Whether it is an unchanged input that is not named explicitly."""
        if self._unchanged is None or not is_glob(output.pattern):
            return False
        if not self._unchanged(path):
            return False
        self.passed.append(OutputFile(path, inner, output, "file"))
        return True

    def _check_inside(self, path: str) -> None:
        """Refuse matches behind a symlink, which may belong to anybody."""
        parent = os.path.dirname(self._top + path)  # noqa: PTH120 - often called
        if parent not in self._inside:
            real = os.path.realpath(parent)
            if not Path(real).is_relative_to(self._real):
                raise self._refusal(path, f"it is outside the task's folder, in {printable(real)}")
            self._inside.add(parent)

    def _target_of(self, link: _Link) -> str:
        """The path in the task's folder of a symlink's target."""
        place = self._folder / link.path
        real, points = os.path.realpath(place), f"points to {printable(place.readlink())}"
        if not os.path.lexists(real) or Path(real).is_symlink():
            raise self._refusal(link.path, f"it is a symlink that {points}, which does not exist")
        if not Path(real).is_relative_to(self._real):
            why = f"it is a symlink that {points}, outside the task's folder; have the task copy it"
            raise self._refusal(link.path, why)
        return os.path.relpath(real, self._real)

    def _unfolded(self, link: _Link) -> bool:
        """Add the tree that a matched symlink points to, if it is not published otherwise."""
        target = self._target_of(link)
        if not link.top or self._target_at_destination(link, target) is not None:
            return False
        if not (self._folder / target).is_dir():
            return False
        self._homes[link.path].remove((_base(link.output), link.inner))
        self._homes.setdefault(target, []).append((_base(link.output), link.inner))
        self._take_tree(target, link.inner, link.output)
        return True

    def _resolved(self, link: _Link) -> OutputFile:
        target = self._target_of(link)
        if (text := self._target_at_destination(link, target)) is not None:
            return OutputFile(link.path, link.inner, link.output, "link", text)
        if (self._folder / target).is_file():
            return OutputFile(link.path, link.inner, link.output, "file")
        if (self._folder / target).is_dir():
            why = (
                f"it is a symlink to the folder {printable(target)}, which is not an output itself"
            )
        else:
            why = f"it is a symlink to {printable(target)}, which is not a file"
        raise self._refusal(link.path, why)

    def _target_at_destination(self, link: _Link, target: str) -> str | None:
        """The target of a symlink at the destination; None if its target is not published there."""
        if "://" in link.output.to:
            return None  # no service knows symlinks
        base, above = _base(link.output), link.inner.parent
        text = str((self._folder / link.path).readlink())
        next_one = os.path.normpath(os.path.join(os.path.dirname(link.path), text))  # noqa: PTH118, PTH120
        there = PurePosixPath(os.path.normpath(above / text))
        if not text.startswith("/") and (base, there) in self._homes.get(next_one, ()):
            return text
        for other, home in self._homes.get(target, ()):
            if other == base and home != link.inner:
                return os.path.relpath(home, above)
        return None

    def _check_listable(self, pattern: str) -> None:
        """Refuse a folder that cannot be listed, whose contents would be missing silently."""
        parts = PurePosixPath(pattern).parts
        if os.geteuid() == 0 or not any(c in "*?[" for part in parts[:-1] for c in part):
            return
        for depth in range(1, len(parts)):
            above = str(PurePosixPath(*parts[:depth]))
            for folder in find(above, self._folder):
                if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
                    raise self._refusal(
                        os.path.relpath(folder, self._folder), "it cannot be listed"
                    )

    def _refusal(self, path: str, why: str) -> UnusableOutput:
        return UnusableOutput(self._task, path, why)

    def _errors_ignored(self) -> suppress:
        return suppress(*((UnusableOutput, OSError) if self._lenient else ()))


def _base(output: Output) -> object:
    """Identifies a destination folder."""
    return output.to if output.at is None else output.at


def entries_below(
    top: Path, *, lenient: bool = False
) -> Iterator[tuple[str, os.stat_result | None]]:
    """The contents of a folder, by relative path, in a fixed order; None for an empty folder.

    Symlinks are not followed. Raises OSError for a folder that cannot be listed, or leaves out
    its contents if ``lenient``.
    """
    pending = [""]
    while pending:
        inner = pending.pop()
        try:
            with os.scandir(f"{top}/{inner}") as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        except OSError:
            if not lenient:
                raise
            continue
        if inner and not entries:
            yield inner, None
        folders = []
        for entry in entries:
            path = f"{inner}/{entry.name}" if inner else entry.name
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                folders.append(path)
            yield path, status
        pending.extend(reversed(folders))

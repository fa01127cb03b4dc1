"""Finds the inputs of a task or a job that have changed since a task was done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import msgspec

from encamp.errors import NotOurs, printable, shortened
from encamp.reports import InputFile
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.storage.inputs.mirror import Item
from encamp.storage.shared_folders import MIRRORED, Portable, SharedPath, local

_KEPT = 20
"""Inputs of a task that its report lists."""
_KEPT_OF_JOB = 1000
_STATES = 10
"""States of the job's inputs that are remembered."""
_NAME = "job-inputs.json"
_MOST = 1 << 26


def listed(items: Sequence[Item], most: int = _KEPT) -> list[InputFile]:
    """The recorded inputs: the first ones, in the state in which they were looked up."""
    return [
        InputFile(_path_of(item.source), item.target, item.size, item.mtime_ns)
        for item in items[:most]
    ]


def _path_of(source: Portable) -> str:
    """The path of a source on this host, like `Item.name`."""
    if isinstance(source, str):
        return printable(source)
    root = _root(source.root, os.environ.get(MIRRORED), os.environ.get("HOME"))
    return printable(os.path.join(root, source.rest))  # noqa: PTH118


@lru_cache(maxsize=64)
def _root(number: int, _roots: str | None, _home: str | None) -> str:
    """The path of a shared root; cached, since nothing else here takes as long."""
    return str(local(SharedPath(number, "")))


def changed_input(before: Sequence[InputFile], now: Sequence[InputFile]) -> str:
    """The first input that differs, in words; empty if none of the known ones does."""
    was = {one.target: one for one in before}
    for one in now:
        if one.target not in was:
            if len(before) in (_KEPT, _KEPT_OF_JOB):
                continue  # it may have been one of those that were not kept
            return f"{_shown_name(one)} is new"
        earlier = was[one.target]
        if earlier.path != one.path:
            return f"{_shown_name(one)} was {_shown_name(earlier)} before"
        if earlier != one:
            return _shown_name(one)
    there = {one.target for one in now}
    gone = [one for one in before if one.target not in there]
    return f"{_shown_name(gone[0])} is gone" if gone else ""


def _shown_name(one: InputFile) -> str:
    """An input's path, relative to the current folder if it is below."""
    return shortened(printable(one.path.removeprefix(f"{Path.cwd()}/")))


class JobInputs:
    """The states of a job's inputs, by the digest that is in tasks' keys.

    They are kept in a file of the job's folder, to find out what changed. A run does not depend on
    it.
    """

    def __init__(self, folder: TrustedFolder) -> None:
        self._folder = folder

    def note(self, digest: str, items: Sequence[Item]) -> None:
        """Record the inputs in their present state."""
        if not items:
            return
        states = self._states()
        if digest in states:
            return
        states[digest] = listed(items, _KEPT_OF_JOB)
        last = dict([*states.items()][-_STATES:])
        with (
            suppress(OSError, NotOurs, UnicodeEncodeError),
            self._folder.opened(make=True) as files,
            files.replacing(_NAME, flush=False) as file,
        ):
            file.write(msgspec.json.encode(last))

    def changed(self, before: str, items: Sequence[Item]) -> str:
        """The input that changed since the state with a digest; empty if unknown."""
        known = self._states().get(before)
        return "" if known is None else changed_input(known, listed(items, _KEPT_OF_JOB))

    def _states(self) -> dict[str, list[InputFile]]:
        with (
            suppress(OSError, NotOurs, ValueError, RecursionError),
            self._folder.opened() as files,
        ):
            return msgspec.json.decode(files.read(_NAME, _MOST), type=dict[str, list[InputFile]])
        return {}


def with_name(words: str, name: str) -> str:
    """``an input changed: data/strip-3.las``"""
    return f"{words}: {name}" if name else words

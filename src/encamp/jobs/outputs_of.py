"""Inputs that are outputs of other tasks: which ones, and where they go in the folder.

The outputs of a task are those that it published when it was last done, according to the journal;
other files in the destination do not count.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, get_args

import msgspec

from encamp.attempt_facts import Published
from encamp.errors import BadJob, NoMatch, TargetConflict
from encamp.storage.inputs.exclude import path_excluded
from encamp.storage.inputs.globs import escape, matches
from encamp.storage.inputs.mirror import Mirror, MirrorMap, Mode, as_mirrors, renamed, safe_target
from encamp.storage.outputs.patterns import Output
from encamp.storage.urls import is_url, without_scheme


class _Named(Protocol):
    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class OutputsOf:
    """Outputs of other tasks as inputs; made by `outputs_of`."""

    tasks: tuple[str, ...]
    pattern: str | None = None
    to: str = "."
    rename: str | None = None
    exclude: tuple[str, ...] = ()
    required: bool = True
    readonly: bool = False
    mode: Mode = "auto"

    def __post_init__(self) -> None:
        if not self.tasks:
            raise BadJob(
                "outputs_of", "names no task; give a task's name, or a pattern such as 'cut-*'"
            )
        if self.pattern is not None and not self.pattern.strip("/"):
            raise BadJob(f"{self}: the pattern {self.pattern!r}", "names nothing")
        if self.mode not in get_args(Mode):
            raise BadJob(f"the mode {self.mode!r}", f"must be one of {', '.join(get_args(Mode))}")
        safe_target(self.to)

    def __str__(self) -> str:
        tasks = repr(self.tasks[0]) if len(self.tasks) == 1 else repr(list(self.tasks))
        pattern = "" if self.pattern is None else f", {self.pattern!r}"
        return f"outputs_of({tasks}{pattern})"

    __repr__ = __str__


def outputs_of(
    tasks: str | _Named | Iterable[str | _Named],
    pattern: str | os.PathLike[str] | None = None,
    to: str | os.PathLike[str] = ".",
    *,
    rename: str | None = None,
    exclude: str | Iterable[str] = (),
    required: bool = True,
    readonly: bool = False,
    mode: Mode = "auto",
) -> OutputsOf:
    """The outputs of other tasks of the job as inputs of a task: for ``mirror`` of `Job.add`.

    The task runs after those tasks, and runs again when the set of their outputs, or the contents
    of one, changes. Other files in the destination, such as outputs of tasks that are no longer in
    the job, are ignored.

        job.add("sum", "cat *.txt", mirror=encamp.outputs_of("m*", "*.txt"))

    tasks
        Names of tasks, patterns of names (``"strip-*"``), or what `Job.add` returned; one or many.
    pattern
        Which of their outputs; all by default. A pattern without a slash matches file names
        (``"*.txt"``). A pattern with a slash matches paths relative to the job's destination
        (``"grids/*.npy"``), or whole paths and URLs if outputs go elsewhere. As in a mirror map,
        ``**`` matches folders to any depth, and a folder stands for its tree.
    to
        Folder inside the task's folder. Files keep their path below the folder that their task's
        output names; if the pattern has a slash, they are placed where `Mirror` would place them.
    required
        Whether the task fails if nothing matches.

    ``rename``, ``exclude``, ``readonly`` and ``mode`` are as in `Mirror`. Raises `BadJob`; a
    missing task is an error when the job runs, before any task.
    """
    one = isinstance(tasks, str) or hasattr(tasks, "name")
    given: Any = [tasks] if one else tasks
    if not isinstance(given, Iterable):
        raise BadJob(f"outputs_of({given!r})", "takes names of tasks, or tasks")
    names = tuple(task if isinstance(task, str) else _name_of(task) for task in given)
    return OutputsOf(
        names,
        None if pattern is None else os.fspath(pattern),
        os.fspath(to),
        rename,
        (exclude,) if isinstance(exclude, str) else tuple(exclude),
        required,
        readonly,
        mode,
    )


def _name_of(task: Any) -> str:
    name = getattr(task, "name", None)
    if not isinstance(name, str):
        raise BadJob(f"outputs_of({task!r})", "takes names of tasks, or tasks")
    return escape(name)


InputMap = (
    MirrorMap
    | OutputsOf
    | Mapping[str | Mirror | OutputsOf, str]
    | Iterable[str | Mirror | OutputsOf]
)
"""A `MirrorMap` that may also hold `OutputsOf`, even as keys: ``{outputs_of("m*"): "m"}``."""


def as_inputs(spec: InputMap) -> tuple[tuple[Mirror, ...], tuple[OutputsOf, ...]]:
    """Any form of an input map, as mirrors and as outputs of other tasks."""
    if not spec and type(spec) is tuple:  # the usual case, quickly
        return (), ()
    if isinstance(spec, str | Mirror):
        return as_mirrors(spec), ()
    if isinstance(spec, OutputsOf):
        return (), (spec,)
    if isinstance(spec, Mapping):
        taken = [replace(key, to=to) for key, to in spec.items() if isinstance(key, OutputsOf)]
        rest: Any = {key: to for key, to in spec.items() if not isinstance(key, OutputsOf)}
        return as_mirrors(rest), tuple(taken)
    if not isinstance(spec, Iterable):
        return as_mirrors(spec), ()
    items: list[Any] = list(spec)
    others: list[Any] = [item for item in items if not isinstance(item, OutputsOf)]
    return as_mirrors(others), tuple(item for item in items if isinstance(item, OutputsOf))


class PublishedOutputs(msgspec.Struct, frozen=True):
    """A task's outputs: their declarations, and the published files."""

    outputs: Sequence[Output]
    published: Sequence[Published]


def chosen(wanted: OutputsOf, made: Iterable[PublishedOutputs], to: Path) -> dict[str, Published]:
    """Path in the folder → which of the outputs goes there; ``to`` is the job's destination.

    Raises `NoMatch` or `TargetConflict`.
    """
    top = os.path.realpath(to)
    found: dict[str, Published] = {}
    for one in made:
        folders = _folders(one.outputs, to)
        for published in one.published:
            inner = _inner(wanted.pattern, published.path, top, folders)
            if inner is None or path_excluded(inner, wanted.exclude):
                continue
            name = renamed(wanted.rename, inner.name)
            target = str(safe_target(wanted.to) / inner.parent / name)
            other = found.setdefault(target, published)
            if other.path != published.path:
                raise TargetConflict(target, other.path, published.path)
    if wanted.required and not found:
        raise NoMatch(wanted.pattern or "*", f"what {_listed(wanted.tasks)} published")
    return found


def _listed(tasks: Sequence[str]) -> str:
    some = ", ".join(tasks[:3])
    return f"{some} and {len(tasks) - 3} more" if len(tasks) > 3 else some


def _folders(outputs: Iterable[Output], to: Path) -> list[str]:
    """The folders that outputs go to, the deepest first, for matching published paths."""
    named = {
        (
            output.to if is_url(output.to) else os.path.realpath(to / os.path.expanduser(output.to))
        ).rstrip("/")
        for output in outputs
    }
    return sorted(named, key=len, reverse=True)


def _inner(pattern: str | None, path: str, top: str, folders: list[str]) -> PurePosixPath | None:
    """The path of a published file below the chosen folder; None if it is not chosen."""
    if pattern is None or "/" not in pattern:
        if pattern is not None and not matches(pattern, os.path.basename(path)):  # noqa: PTH119
            return None
        return _below(path, folders)
    return _placed(_absolute(pattern, top), path)


def _below(path: str, folders: list[str]) -> PurePosixPath:
    folder = next((f for f in folders if path.startswith(f.rstrip("/") + "/")), None)
    return PurePosixPath(
        path[len(folder.rstrip("/")) + 1 :] if folder else PurePosixPath(path).name
    )


def _absolute(pattern: str, top: str) -> str:
    """A pattern as one for absolute paths: from the destination on, or elsewhere."""
    pattern = without_scheme(pattern.rstrip("/"))
    if is_url(pattern) or pattern.startswith(("/", "~")):
        return os.path.expanduser(pattern)
    return f"{escape(top)}/{os.path.normpath(pattern)}"


def _placed(pattern: str, path: str) -> PurePosixPath | None:
    """Where `Mirror` would put ``path``: by its name, its path in a tree, or all from ``**`` on."""
    parts = pattern.split("/")
    if "**" in parts:
        depth = parts.index("**")
        rest = path.split("/")[depth:]
        return PurePosixPath(*rest) if rest and matches(pattern, path) else None
    pieces = path.split("/")
    if len(pieces) < len(parts):
        return None
    above = "/".join(pieces[: len(parts)])
    return PurePosixPath(*pieces[len(parts) - 1 :]) if matches(pattern, above) else None

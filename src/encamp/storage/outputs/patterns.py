"""Output maps: which files of a task's folder are published where; checked before a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import msgspec

from encamp.attempt_facts import quickly_pickled
from encamp.errors import BadDestination, BadJob, OutputConflict, printable
from encamp.storage import urls
from encamp.storage.disk.path_to_destination import NAMED, Trust, trust_in
from encamp.storage.disk.path_to_destination import below as folder_below
from encamp.storage.inputs.mirror import renamed, safe_target
from encamp.storage.local_storage import in_local_storage
from encamp.storage.parse_map import parse_map
from encamp.storage.shared_folders import Portable, local, portable_name
from encamp.storage.urls import is_url

Existing = Literal["replace", "error", "keep"]
_EXISTING = get_args(Existing)


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Output:
    """Files to publish from a task's folder after it has succeeded.

    pattern
        Path or glob inside the task's folder; ``**`` matches folders to any depth. An unchanged
        input is an output only if it is named without a wildcard. A folder is published with its
        whole tree, including empty folders. A symlink stays a symlink if its target is also
        published below the same destination. Otherwise the file that it points to is published;
        if the pattern matches the symlink itself, and it points to a folder, the whole folder is
        published. A broken symlink, or one that points outside the task's folder, is an error
        (`UnusableOutput`), and so are FIFOs, sockets and devices.
    to
        Destination folder, created if missing, or a URL that fsspec knows.
    rename
        New name; ``{name}``, ``{stem}`` and ``{suffix}`` are those of the match.
    required
        Whether a pattern that matches nothing is an error (`MissingOutput`).
    existing
        What to do about a file that exists already: "replace" it, "keep" it, or "error"
        (`OutputExists`). A job may always replace files that it has published itself.
    """

    pattern: str
    to: str = "."
    rename: str | None = None
    required: bool = True
    existing: Existing = "replace"
    at: Portable | None = field(default=None, kw_only=True, repr=False)
    """Where ``to`` is, as all hosts understand it; see `bound`."""
    trust: Trust = field(default=NAMED, kw_only=True, repr=False)
    """The users whose links and folders on the way to ``at`` are trusted."""

    def __post_init__(self) -> None:
        if self.existing not in _EXISTING:
            raise BadJob(f"existing={self.existing!r}", f"must be one of {_EXISTING}")
        for given in (self.pattern, self.to):
            if not isinstance(given, str | os.PathLike):
                raise BadJob(f"outputs: {given!r}", "is not a path; give text, such as '.'")
        object.__setattr__(self, "pattern", os.fspath(self.pattern))
        if not self.pattern or "\0" in self.pattern:
            why = "contains a null byte" if self.pattern else "is empty"
            raise BadJob(f"the pattern {self.pattern!r} of an output", why)
        object.__setattr__(self, "to", urls.without_scheme(os.fspath(self.to)))


OutputMap = Mapping[str, str] | Iterable[Output | str] | Output | str
"""``{pattern: destination folder}``, or `Output` objects, or bare patterns."""


def as_outputs(spec: OutputMap) -> tuple[Output, ...]:
    """Any form of an output map as `Output` objects."""
    if not spec and type(spec) is tuple:  # the usual case on failure, quickly
        return ()
    return parse_map(spec, Output, Output, Output, "outputs")


def bound(
    outputs: Iterable[Output], destination: Path, *, shared: bool = False
) -> tuple[Output, ...]:
    """The outputs for another host, with destinations that do not depend on this host.

    Destinations have their real names, so that conflicts can be found without looking. ``shared``
    is whether a group shares the job. Raises `BadDestination` for folders that another user has
    put there.
    """
    return tuple([_bound(output, destination, shared) for output in outputs])


def _bound(output: Output, destination: Path, shared: bool) -> Output:
    if is_url(output.to) or output.at is not None:
        return output
    folder, trust = _true_place(output, destination, shared)
    return replace(output, at=portable_name(folder), trust=trust)


def _true_place(output: Output, destination: Path, shared: bool) -> tuple[Path, Trust]:
    to = os.path.expanduser(output.to)
    if to.startswith("/"):
        folder = Path(os.path.realpath(to))
        return folder, trust_in(folder, shared=shared)
    return folder_below(destination, to, shared=shared)


def folders_of(outputs: Iterable[Output]) -> dict[Path, Trust]:
    """The folders of this host that `bound` outputs go to, and whom to trust there."""
    return {local(output.at): output.trust for output in outputs if output.at is not None}


class Place(msgspec.Struct, frozen=True):
    """A destination folder that was checked."""

    begin: str
    """The beginning of the final names in it."""
    at: Portable | None
    trust: Trust
    """As in a `bound` output."""


Folders = dict[tuple[str, Portable | None], Place]
"""Destination folders that were checked, by ``to`` and ``at`` of outputs."""


def check_outputs(
    outputs: Iterable[Output],
    destination: Path,
    folders: Folders | None = None,
    *,
    shared: bool = False,
) -> dict[str, str]:
    """The final names that are known before anything runs, with the pattern of each.

    ``folders`` are those that earlier calls have checked; new ones are added. ``shared`` says
    whether a group shares the destination. Raises `UnsafeTarget` for a pattern that leaves the
    task's folder, `BadDestination` for a destination in the local storage, one that cannot be
    written to, a folder beside it, or one that another user has put there, `OutputConflict` for two
    outputs with one final name, `BadJob` for the task's folder itself without a new name.
    """
    known: dict[str, str] = {}
    folders = {} if folders is None else folders
    for output in outputs:
        plain = _is_name(output.pattern)
        if not plain:
            safe_target(output.pattern)
        if (output.to, output.at) not in folders:
            folders[output.to, output.at] = _checked_folder(output, destination, shared)
        if not any(c in output.pattern for c in "*?["):
            name = output.pattern if plain else PurePosixPath(output.pattern).name
            if not (name or output.rename):
                why = "is the task's folder; write '**' for everything in it"
                raise BadJob(f"the output {output.pattern!r}", why)
            final = folders[output.to, output.at].begin + renamed(output.rename, name)
            if final in known:
                raise OutputConflict(final, known[final], output.pattern)
            known[final] = output.pattern
    return known


def _is_name(pattern: str) -> bool:
    """Whether a pattern begins like the name of a file in the folder itself."""
    return "/" not in pattern and "\0" not in pattern and pattern[:1] not in ("", ".", "~")


def _checked_folder(output: Output, destination: Path, shared: bool) -> Place:
    if not is_url(output.to) and Path(os.path.normpath(output.to)).parts[:1] == (os.pardir,):
        why = "it is outside the destination (if you mean that, write the absolute path)"
        raise BadDestination(output.to, why)
    output = _bound(output, destination, shared)
    if output.at is None:
        urls.check(output.to)
    else:
        check_destination(local(output.at))
    begin = str(final_of(output)(PurePosixPath("x")))[:-1]
    return Place(begin, output.at, output.trust)


def final_of(output: Output) -> Callable[[PurePosixPath], Path | str]:
    """A function that returns where each file of a bound output goes, on this host."""
    if output.at is None:
        return lambda inner: f"{output.to.rstrip('/')}/{inner}"
    return local(output.at).joinpath


def check_destination(folder: Path) -> None:
    """Raise `BadDestination` unless files can be published to ``folder``; creates nothing."""
    if in_local_storage(folder):
        raise BadDestination(str(folder), "it is in the local storage, which encamp cleans")
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    try:
        is_folder = there.is_dir()
    except OSError as exc:
        why = f"{printable(there)}: {(exc.strerror or str(exc)).lower()}"
        raise BadDestination(str(folder), why) from exc
    if not is_folder:
        raise BadDestination(str(folder), f"{printable(there)} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadDestination(str(folder), f"{printable(there)} cannot be written to")

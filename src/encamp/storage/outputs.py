"""What a task's folder gives back: output patterns, and their way to the destination.

In two steps, so that one party alone makes files visible. `stage` copies to temporary names on
the destination's own file system, checks and flushes; `publish.publish` renames to the final
names. What is not published leaves nothing under a final name, whenever the process dies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from io import FileIO
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Literal, NoReturn, get_args

from encamp.errors import BadDestination, BadJob, MissingOutput, OutputConflict, printable
from encamp.storage import remote
from encamp.storage.beacon import reaches
from encamp.storage.disk import disk_full
from encamp.storage.landing import Far, OutputChannel, send_file
from encamp.storage.mirror import find, globstar_depth, renamed, safe_target
from encamp.storage.parts import PART, discard
from encamp.storage.remote import is_url
from encamp.storage.roots import (
    Portable,
    below,
    in_local_storage,
    local,
    portable,
    portable_name,
)

_CHUNK = 1 << 20


Existing = Literal["replace", "error", "keep"]


@dataclass(frozen=True)
class Output:
    """Files to bring back from a task's folder after it has ended well.

    pattern
        Path or glob inside the task's folder; ``**`` matches folders to any depth. A folder
        brings back the files of its whole tree. A symlink brings back the file it leads to, if
        that is in the task's folder too; otherwise it is no output.
    to
        Destination folder, made where it is missing, or a URL that fsspec knows.
    rename
        New name; ``{name}``, ``{stem}`` and ``{suffix}`` stand for the match's.
    required
        Whether a pattern that matches nothing is an error (`MissingOutput`).
    existing
        What becomes of a file that is there already: "replace", "keep" it, or "error"
        (`OutputExists`). A job may always replace what it has published itself.
    """

    pattern: str
    to: str = "."
    rename: str | None = None
    required: bool = True
    existing: Existing = "replace"
    at: Portable | None = field(default=None, kw_only=True, repr=False)
    """Where ``to`` is, as all hosts understand it; see `bound`."""

    def __post_init__(self) -> None:
        if self.existing not in get_args(Existing):
            raise BadJob(f"existing={self.existing!r}", f"is none of {get_args(Existing)}")
        for given in (self.pattern, self.to):
            if not isinstance(given, str | os.PathLike):
                raise BadJob(f"outputs: {given!r}", "is no path; give text, such as '.'")
        object.__setattr__(self, "pattern", os.fspath(self.pattern))
        object.__setattr__(self, "to", os.fspath(self.to))


OutputMap = Mapping[str, str] | Iterable[Output | str] | Output | str
"""``{pattern: destination folder}``, or `Output` objects, or bare patterns."""


def as_outputs(spec: OutputMap) -> tuple[Output, ...]:
    """Any form of an output map as `Output` objects."""
    if isinstance(spec, Output):
        return (spec,)
    if isinstance(spec, str | Path):
        return (Output(str(spec)),)
    if isinstance(spec, Mapping):
        return tuple(Output(pattern, to) for pattern, to in spec.items())
    if not isinstance(spec, Iterable):
        why = f"must be patterns, a mapping of patterns to folders, or Outputs, not {spec!r}"
        raise BadJob("outputs", why)
    return tuple(item if isinstance(item, Output) else Output(str(item)) for item in spec)


@dataclass(frozen=True)
class Staged:
    """One output under its temporary name; ``digest`` is blake2b-128 in hexadecimal."""

    made: str
    part: Portable
    final: Portable
    size: int
    digest: str
    existing: Existing = "replace"
    flushed: bool = True
    """Whether the copy is on the disk; if not, `publish.flush_copies` comes before `publish`."""


Final = Path | str | Far
"""Where an output goes: a path on this host, a URL, or a path on the spawner's host."""


def bound(outputs: Iterable[Output], destination: Path) -> tuple[Output, ...]:
    """The outputs for another host: where they go depends on nothing of this one."""
    return tuple(
        output if is_url(output.to) else replace(output, at=_true_place(output, destination))
        for output in outputs
    )


def _true_place(output: Output, destination: Path) -> Portable:
    """By its one true name, so that conflicts are seen by those who cannot look."""
    return portable(os.path.realpath(_folder(output, destination)))


def check_for_hosts(outputs: Iterable[Output]) -> None:
    """Raise `BadDestination` for what would be another place on every host."""
    for output in outputs:
        if output.to.startswith("file:"):
            raise BadDestination(output.to, "each host has another file there; give a path")


def folders_of(outputs: Iterable[Output]) -> list[Path]:
    """The folders of this host that `bound` outputs go to."""
    return [local(output.at) for output in outputs if output.at is not None]


def check_outputs(outputs: Iterable[Output], destination: Path) -> dict[Final, str]:
    """The final names that are known before anything runs, with the pattern that makes each.

    Raises `UnsafeTarget` for a pattern that leaves the task's folder, `BadDestination` for a
    destination in the local storage, one that cannot be written to, or a folder beside it,
    `OutputConflict` for two outputs with one final name.
    """
    known: dict[Final, str] = {}
    for output in outputs:
        safe_target(output.pattern)
        if is_url(output.to):
            remote.check(output.to)
        else:
            if Path(os.path.normpath(output.to)).parts[:1] == (os.pardir,):
                why = "it is outside of the destination (if that is meant, write the whole path)"
                raise BadDestination(output.to, why)
            check_destination(Path(os.path.realpath(_folder(output, destination))))
        if not any(c in output.pattern for c in "*?["):
            name = renamed(output.rename, PurePosixPath(output.pattern).name)
            final = _finals(destination, output)(PurePosixPath(name))
            if final in known:
                raise OutputConflict(str(final), known[final], output.pattern)
            known[final] = output.pattern
    return known


def _folder(output: Output, destination: Path) -> Path:
    if output.at is not None:
        return local(output.at)
    return destination / os.path.expanduser(output.to)


def _place(
    destination: Path, far: Collection[Portable], output: Output
) -> Callable[[PurePosixPath], Final]:
    """What says where each file of an output goes, by whichever way."""
    if output.at is not None and output.at in far:
        return partial(Far, output.at)
    return _finals(destination, output)


def _finals(destination: Path, output: Output) -> Callable[[PurePosixPath], Path | str]:
    """What gives final names, in the folder's one true name, so that conflicts are seen."""
    if is_url(output.to):
        return lambda inner: f"{output.to.rstrip('/')}/{inner}"
    return Path(os.path.realpath(_folder(output, destination))).joinpath


def check_destination(folder: Path) -> None:
    """Raise `BadDestination` unless files can be published to ``folder``; makes nothing."""
    if in_local_storage(folder):
        raise BadDestination(str(folder), "it is in the local storage, which is emptied")
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        is_folder = there.is_dir()
    except OSError as exc:
        why = f"{printable(there)}: {(exc.strerror or str(exc)).lower()}"
        raise BadDestination(str(folder), why) from exc
    if not is_folder:
        raise BadDestination(str(folder), f"{printable(there)} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadDestination(str(folder), f"{printable(there)} cannot be written to")


def stage(
    folder: Path,
    outputs: Iterable[Output],
    destination: Path | None = None,
    *,
    token: str,
    task: str,
    inputs: frozenset[str] = frozenset(),
    announce: Callable[[list[Path]], None] | None = None,
    channel: OutputChannel | None = None,
    beacon: str = "",
    flush: bool = True,
) -> list[Staged]:
    """Copy what the patterns match in ``folder`` to temporary names at the destination.

    `bound` outputs need no ``destination``; with a ``channel`` they go by it where this host does
    not reach the place, see `beacon.reaches`.
    ``token`` makes the temporary names unlike any other attempt's; ``inputs`` are the paths that
    were placed there, named in no message about what the task made; ``announce`` is told the
    temporary names before there are files with them. Blocks until the copies are on
    the disk; without ``flush`` that is left to another process of this host, which can see to
    many at once (`publish.flush_copies`). Raises `MissingOutput`, `OutputConflict`,
    `BadDestination` or `DiskFull`; then no temporary file is left here.
    """
    staged: list[Staged] = []
    token = f"{token}.{token_hex(4)}"  # an executor may run the same attempt twice
    try:
        base = destination or Path.cwd()
        outputs = tuple(outputs)
        ats = {output.at for output in outputs if channel is not None}
        far = {at for at in ats if at is not None and not reaches(at, beacon)}
        wanted = _wanted(folder, outputs, partial(_place, base, far), task, inputs)
    except OSError as exc:
        raise BadDestination(str(destination or folder), _unreadable(exc, folder)) from exc
    tokens = {final: f"{token}-{number}" for number, final in enumerate(wanted)}
    if announce is not None:
        announce([_part(one, tokens[one]) for one in wanted if isinstance(one, Path)])
    try:
        for final, (made, output) in wanted.items():
            token, source = tokens[final], folder / made
            if isinstance(final, Far) and channel is not None:
                staged.append(_sent(channel, source, made, final, token, output))
            else:
                staged.append(_staged(source, made, final, token, output, flush))
    except BaseException:
        unstage(one for one in staged if not far)  # the other side sees to its own
        raise
    return staged


def _part(final: Path, token: str) -> Path:
    return final.with_name(f"{PART}{token}")


def _staged(
    source: Path, made: str, final: Final, token: str, output: Output, flush: bool
) -> Staged:
    if isinstance(final, Path):
        part = _part(final, token)
        size, digest = _copied(source, part, final, flush)
        names = _portable_names(part, final, output)
        return Staged(made, *names, size, digest, output.existing, flush)
    url = f"{str(final).rsplit('/', 1)[0]}/{PART}{token}"
    size, digest = remote.upload(source, url)
    return Staged(made, url, str(final), size, digest, output.existing)


def _portable_names(part: Path, final: Path, output: Output) -> tuple[Portable, Portable]:
    if output.at is not None and final.parent == local(output.at):
        return below(output.at, part.name), below(output.at, final.name)
    return portable_name(part), portable_name(final)


def _sent(
    channel: OutputChannel, source: Path, made: str, final: Far, token: str, output: Output
) -> Staged:
    try:
        landed, size, digest = send_file(channel, source, final, token)
    except OSError as exc:
        raise BadDestination(str(final), _unreadable(exc, source)) from exc
    return Staged(made, landed.part, landed.final, size, digest, output.existing)


def unstage(staged: Iterable[Staged]) -> None:
    """Remove staged files that will not be published."""
    for one in staged:
        if is_url(one.part):
            with suppress(BadDestination):  # a place that cannot be reached keeps it
                remote.remove(str(one.part))
        else:
            discard(local(one.part))


def _wanted(
    folder: Path,
    outputs: Iterable[Output],
    place: Callable[[Output], Callable[[PurePosixPath], Final]],
    task: str,
    inputs: frozenset[str],
) -> dict[Final, tuple[str, Output]]:
    """Where it goes → path in the folder, of every file that the patterns match."""
    wanted: dict[Final, tuple[str, Output]] = {}
    for output in outputs:
        matches = list(_matches(folder, output))
        if output.required and not matches:
            made = [path for path in _files_below(folder, folder) if path not in inputs]
            raise MissingOutput(task, output.pattern, tuple(made[:10]))
        final_of = place(output)
        for made_as, inner in matches:
            final = final_of(inner)
            before, _ = wanted.setdefault(final, (made_as, output))
            if before != made_as:
                raise OutputConflict(str(final), before, made_as)
    return wanted


def _matches(folder: Path, output: Output) -> Iterator[tuple[str, PurePosixPath]]:
    """Path in the folder, and path below the destination folder, of every matching file."""
    depth = globstar_depth(output.pattern, folder)
    for match in find(output.pattern, folder):
        inner = PurePosixPath(*match.parts[depth:]) if depth else PurePosixPath(match.name)
        to = inner.parent / renamed(output.rename, match.name)
        made = match.relative_to(folder)
        if _is_own_file(match, folder):
            yield str(made), to
        elif not depth and match.is_dir() and not match.is_symlink() and _inside(match, folder):
            for path in _files_below(match, folder):
                yield str(made / path), to / path


def _files_below(top: Path, folder: Path) -> Iterator[str]:
    """The task's own files below ``top``, in a fixed order, by their paths from there."""
    for at, folders, names in os.walk(top, onerror=_not_listed):
        folders.sort(key=os.fsencode)
        for path in sorted((Path(at, name) for name in names), key=os.fsencode):
            if _is_own_file(path, folder):
                yield str(path.relative_to(top))


def _not_listed(exc: OSError) -> NoReturn:
    """What is in a folder that cannot be listed would be missing without a word."""
    raise exc


def _is_own_file(path: Path, folder: Path) -> bool:
    near = path.parent == folder and not path.is_symlink()
    return path.is_file() and (near or _inside(path, folder))


def _inside(path: Path, folder: Path) -> bool:
    """Whether a match is the task's own: what a symlink leads to elsewhere is no output."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _copied(source: Path, part: Path, final: Path, flush: bool) -> tuple[int, str]:
    """Copy, flush to the disk and read back nothing: the bytes hashed are the bytes written."""
    try:
        with source.open("rb", buffering=0) as reader, _new_file(part) as writer:
            size, digest = _pump(reader.fileno(), writer.fileno())
            os.fchmod(writer.fileno(), _permissions(reader.fileno()))
            if flush:
                os.fsync(writer.fileno())
        if part.stat().st_size != size:
            raise BadDestination(str(final), "the disk kept fewer bytes than were written")
    except OSError as exc:
        discard(part)
        raise _named(exc, source, final) from exc
    except BaseException:
        discard(part)
        raise
    return size, digest


def _new_file(part: Path) -> FileIO:
    try:
        return part.open("xb", buffering=0)
    except FileNotFoundError:
        part.parent.mkdir(parents=True, exist_ok=True)
        return part.open("xb", buffering=0)


def _pump(reader: int, writer: int) -> tuple[int, str]:
    hashed = hashlib.blake2b(digest_size=16)
    size = 0
    while block := os.read(reader, _CHUNK):
        hashed.update(block)
        size += len(block)
        view = memoryview(block)
        while view:
            view = view[os.write(writer, view) :]
    return size, hashed.hexdigest()


def _permissions(fd: int) -> int:
    """As the task set them, but always writable by their owner."""
    return (os.fstat(fd).st_mode & 0o777) | 0o200


def _named(exc: OSError, source: Path, final: Path) -> Exception:
    if full := disk_full(exc, final, source.stat().st_size):
        return full
    if exc.filename == str(source):
        return BadDestination(str(final), _unreadable(exc, source))
    return BadDestination(str(final), (exc.strerror or str(exc)).lower())


def _unreadable(exc: OSError, source: Path) -> str:
    why = (exc.strerror or str(exc)).lower()
    return f"what the task made, {printable(exc.filename or source)}, cannot be read: {why}"

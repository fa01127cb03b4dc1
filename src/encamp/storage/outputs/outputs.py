"""What a task's folder gives back: output patterns, and their way to the destination.

In two steps, so that one party alone makes files visible. `stage` copies to temporary names on
the destination's own file system, checks and flushes; `publish.publish` renames to the final
names. What is not published leaves nothing under a final name, whenever the process dies.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Literal, get_args

from encamp.errors import BadDestination, BadJob, MissingOutput, OutputConflict, printable
from encamp.model import quickly_pickled
from encamp.storage import remote
from encamp.storage.disk.copy import write_at
from encamp.storage.disk.disk import disk_full, flushed, set_permissions
from encamp.storage.disk.holes import Hashed, allocated, data_parts, is_sparse
from encamp.storage.disk.trusted import NAMED, Trust, opened, trust_in
from encamp.storage.disk.trusted import below as folder_below
from encamp.storage.inputs.mirror import renamed, safe_target
from encamp.storage.outputs.beacon import reaches
from encamp.storage.outputs.landing import Far, OutputChannel, send_file
from encamp.storage.outputs.made import Homebound, Kind, Made, entries_below
from encamp.storage.outputs.parts import PART, Written, discard
from encamp.storage.remote import is_url
from encamp.storage.roots import (
    Portable,
    below,
    current_folder,
    in_local_storage,
    local,
    portable_name,
    with_name,
)

_CHUNK = 1 << 20


Existing = Literal["replace", "error", "keep"]


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Output:
    """Files to bring back from a task's folder after it has ended well.

    pattern
        Path or glob inside the task's folder; ``**`` matches folders to any depth. What is as it
        was mirrored is an output only if it is named without a wildcard. A folder
        brings back its whole tree, empty folders as well. A symlink stays one if what it leads to
        is brought back with it; otherwise it brings back the file, or, if it is matched itself,
        the tree that it leads to. What leads out of the task's folder or nowhere is an error
        (`UnusableOutput`), and so are FIFOs, sockets and devices.
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
    trust: Trust = field(default=NAMED, kw_only=True, repr=False)
    """How far the folders of ``at`` are believed."""

    def __post_init__(self) -> None:
        if self.existing not in get_args(Existing):
            raise BadJob(f"existing={self.existing!r}", f"is none of {get_args(Existing)}")
        for given in (self.pattern, self.to):
            if not isinstance(given, str | os.PathLike):
                raise BadJob(f"outputs: {given!r}", "is no path; give text, such as '.'")
        object.__setattr__(self, "pattern", os.fspath(self.pattern))
        object.__setattr__(self, "to", remote.without_scheme(os.fspath(self.to)))


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
    """One output under its temporary name; ``digest`` is blake2b-128 in hexadecimal.

    Symlinks and empty folders have no temporary file: they are made when they are published.
    """

    made: str
    part: Portable
    final: Portable
    size: int
    digest: str
    existing: Existing = "replace"
    flushed: bool = True
    """Whether the copy is on the disk; if not, `publish.flush_copies` comes before `publish`."""
    kind: Kind = "file"
    goal: str = ""
    """Where a symlink is to lead."""
    written: Written | None = None
    """The temporary file as it was when it was whole; None where there is none on a disk."""
    trust: Trust = NAMED
    """How far the folders that it goes to are believed."""


Final = Path | str | Far
"""Where an output goes: a path on this host, a URL, or a path on the spawner's host."""


def bound(
    outputs: Iterable[Output], destination: Path, *, shared: bool = False
) -> tuple[Output, ...]:
    """The outputs for another host: where they go depends on nothing of this one.

    By its one true name, so that conflicts are seen by those who cannot look. ``shared`` says
    whether it is a group's. Raises `BadDestination` for folders that another user has put there.
    """
    return tuple(_bound(output, destination, shared) for output in outputs)


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
    """The folders of this host that `bound` outputs go to, and how far they are believed."""
    return {local(output.at): output.trust for output in outputs if output.at is not None}


Folders = dict[tuple[str, Portable | None], str]
"""Destination folders that were checked, with how the final names in each begin."""


def check_outputs(
    outputs: Iterable[Output],
    destination: Path,
    folders: Folders | None = None,
    *,
    shared: bool = False,
) -> dict[str, str]:
    """The final names that are known before anything runs, with the pattern that makes each.

    ``folders`` are those that earlier calls have checked, and are added to; ``shared`` says
    whether the destination is a group's.
    Raises `UnsafeTarget` for a pattern that leaves the task's folder, `BadDestination` for a
    destination in the local storage, one that cannot be written to, a folder beside it, or one
    that another user has put there, `OutputConflict` for two outputs with one final name.
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
            final = folders[output.to, output.at] + renamed(output.rename, name)
            if final in known:
                raise OutputConflict(final, known[final], output.pattern)
            known[final] = output.pattern
    return known


def _is_name(pattern: str) -> bool:
    """Whether a pattern begins as the name of a file in the folder itself does."""
    return "/" not in pattern and "\0" not in pattern and pattern[:1] not in ("", ".", "~")


def _checked_folder(output: Output, destination: Path, shared: bool) -> str:
    """How the final names in an output's folder begin."""
    if not is_url(output.to) and Path(os.path.normpath(output.to)).parts[:1] == (os.pardir,):
        why = "it is outside of the destination (if that is meant, write the whole path)"
        raise BadDestination(output.to, why)
    output = _bound(output, destination, shared)
    if output.at is None:
        remote.check(output.to)
    else:
        check_destination(local(output.at))
    return str(_place((), output)(PurePosixPath("x")))[:-1]


def _place(far: Collection[Portable], output: Output) -> Callable[[PurePosixPath], Final]:
    """What says where each file of a bound output goes, by whichever way."""
    at = output.at
    if at is None:
        return lambda inner: f"{output.to.rstrip('/')}/{inner}"
    return partial(Far, at) if at in far else local(at).joinpath


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
    lenient: bool = False,
    unchanged: Callable[[str], bool] | None = None,
    is_from: Callable[[str, Path], bool] | None = None,
) -> list[Staged]:
    """Copy what the patterns match in ``folder`` to temporary names at the destination.

    `bound` outputs need no ``destination``; with a ``channel`` they go by it where this host does
    not reach the place, see `beacon.reaches`.
    ``token`` makes the temporary names unlike any other attempt's; ``inputs`` are the paths that
    were placed there, named in no message about what the task made; ``announce`` is told the
    temporary names before there are files with them; ``unchanged`` says of a path in the folder
    whether it is an input as it was put there, which no pattern takes for an output; ``is_from``,
    where inputs may be changed in place, whether an input came from a final name: if it was left
    alone, a pattern has it there already. Blocks until the copies are on the disk; without
    ``flush`` that is left to another process of this host, which can see to many at once
    (`publish.flush_copies`). Raises `MissingOutput`, `UnusableOutput` (not if ``lenient``: then
    that is left out), `OutputConflict`, `BadDestination` or `DiskFull`; then no temporary file is
    left here.
    """
    staged: list[Staged] = []
    token = f"{token}.{token_hex(4)}"  # an executor may run the same attempt twice
    try:
        outputs = bound(outputs, destination or current_folder())
        ats = {output.at for output in outputs if channel is not None}
        far = {at for at in ats if at is not None and not reaches(at, beacon)}
        where = partial(_place, far)
        found = Homebound(folder, task, lenient=lenient, unchanged=unchanged)
        wanted = _wanted(found, folder, outputs, where, task, inputs, is_from)
    except OSError as exc:
        raise BadDestination(str(destination or folder), _unreadable(exc, folder)) from exc
    tokens = {final: f"{token}-{number}" for number, final in enumerate(wanted)}
    if announce is not None:
        announce([_part(one, tokens[one]) for one in wanted if isinstance(one, Path)])
    try:
        for final, made in wanted.items():
            staged.append(_staged(folder, made, final, tokens[final], channel, flush))
    except BaseException:
        unstage(one for one in staged if not far)  # the other side sees to its own
        raise
    return staged


def _part(final: Path, token: str) -> Path:
    return final.with_name(f"{PART}{token}")


def _staged(
    folder: Path,
    made: Made,
    final: Final,
    token: str,
    channel: OutputChannel | None,
    flush: bool,
) -> Staged:
    if made.kind != "file":
        return _light(made, final, token)
    if isinstance(final, Far) and channel is not None:
        return _sent(channel, folder / made.path, made, final, token)
    source, existing = folder / made.path, made.output.existing
    if isinstance(final, Path):
        trust = _trust(made)
        size, digest, written = _copied(source, _part(final, token), final, trust, flush)
        to = _portable_final(final, made)
        part = with_name(to, f"{PART}{token}")
        return Staged(
            made.path, part, to, size, digest, existing, flush, written=written, trust=trust
        )
    url = f"{str(final).rsplit('/', 1)[0]}/{PART}{token}"
    size, digest = remote.upload(source, url)
    return Staged(made.path, url, str(final), size, digest, existing)


def _portable_final(final: Final, made: Made) -> Portable:
    at = made.output.at
    return str(final) if at is None else below(at, str(made.inner))


def _trust(made: Made) -> Trust:
    """How far the folders are believed that an output goes to."""
    return made.output.trust.below(len(made.inner.parts) - 1)


def _light(made: Made, final: Final, token: str) -> Staged:
    """A symlink or an empty folder, which is made when it is published."""
    to = _portable_final(final, made)
    part, size = with_name(to, f"{PART}{token}"), len(os.fsencode(made.goal))
    staged = Staged(made.path, part, to, size, "", made.output.existing, trust=_trust(made))
    return replace(staged, kind=made.kind, goal=made.goal)


def _sent(channel: OutputChannel, source: Path, made: Made, final: Far, token: str) -> Staged:
    try:
        landed, size, digest = send_file(channel, source, final, token)
    except OSError as exc:
        raise BadDestination(str(final), _unreadable(exc, source)) from exc
    staged = Staged(made.path, landed.part, landed.final, size, digest, made.output.existing)
    return replace(staged, written=landed.written, trust=_trust(made))


def unstage(staged: Iterable[Staged]) -> None:
    """Remove staged files that will not be published."""
    for one in staged:
        if one.kind != "file":
            continue
        if is_url(one.part):
            with suppress(BadDestination):  # a place that cannot be reached keeps it
                remote.remove(str(one.part))
        else:
            discard(local(one.part))


def _wanted(
    found: Homebound,
    folder: Path,
    outputs: Iterable[Output],
    place: Callable[[Output], Callable[[PurePosixPath], Final]],
    task: str,
    inputs: frozenset[str],
    is_from: Callable[[str, Path], bool] | None,
) -> dict[Final, Made]:
    """Where it goes → what goes there, of all that the patterns match."""
    finals_of = lru_cache(maxsize=None)(place)
    for output in outputs:
        start = len(found.passed)
        if found.add(output) or not output.required:
            continue
        passed = found.passed[start:]
        if is_from is None or not any(_is_home(one, finals_of, is_from) for one in passed):
            left = tuple(one.path for one in passed[:10])
            raise MissingOutput(task, output.pattern, _new_files(folder, inputs), left)
    wanted: dict[Final, Made] = {}
    for made in found.all():
        final = finals_of(made.output)(made.inner)
        before = wanted.setdefault(final, made)
        if before.path != made.path and not before.kind == made.kind == "folder":
            raise OutputConflict(str(final), before.path, made.path)
    return wanted


def _is_home(
    made: Made,
    place: Callable[[Output], Callable[[PurePosixPath], Final]],
    is_from: Callable[[str, Path], bool],
) -> bool:
    """Whether an input that was left alone came from where it would go."""
    final = place(made.output)(made.inner)
    return isinstance(final, Path) and is_from(made.path, final)


def _new_files(folder: Path, inputs: frozenset[str]) -> tuple[str, ...]:
    """Some files that the task made, for a message."""
    new = (
        path
        for path, status in entries_below(folder)
        if status is not None and stat.S_ISREG(status.st_mode) and path not in inputs
    )
    return tuple(islice(new, 10))


def _copied(
    source: Path, part: Path, final: Path, trust: Trust, flush: bool
) -> tuple[int, str, Written]:
    """Copy, flush to the disk and read back nothing: the bytes hashed are the bytes written."""
    try:
        with ExitStack() as files:
            reader = os.open(str(source), os.O_RDONLY | os.O_CLOEXEC)
            files.callback(os.close, reader)
            folder = files.enter_context(opened(part.parent, trust, make=True))
            writer = _new_file(part.name, folder)
            files.callback(os.close, writer)
            made = os.fstat(reader)
            size, digest = _pump(reader, writer, made)
            # As the task set them, but always writable by their owner.
            set_permissions(writer, made.st_mode & 0o777 | 0o200, final)
            if flush:
                flushed(writer, final)
            status = os.stat(part.name, dir_fd=folder, follow_symlinks=False)
        if status.st_size != size:
            raise BadDestination(str(final), "the disk kept fewer bytes than were written")
    except OSError as exc:
        discard(part)
        raise _named(exc, source, final) from exc
    except BaseException:
        discard(part)
        raise
    return size, digest, Written.of(status)


def _new_file(name: str, folder: int) -> int:
    """A new file that nobody else can read as long as it is not whole."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=folder)


def _pump(reader: int, writer: int, status: os.stat_result) -> tuple[int, str]:
    """Copy all bytes; a hole stays one, and counts as the zeros that it is read as."""
    hashed = Hashed()
    if is_sparse(status):
        for begin, end in data_parts(reader, status.st_size):
            hashed.zeros(begin - hashed.size)
            _pump_part(reader, writer, hashed, end)
        hashed.zeros(status.st_size - hashed.size)
        os.ftruncate(writer, hashed.size)
    _pump_part(reader, writer, hashed, None)
    return hashed.size, hashed.digest


def _pump_part(reader: int, writer: int, hashed: Hashed, end: int | None) -> None:
    """Copy from where the bytes hashed so far end on; without ``end`` whatever comes."""
    while block := os.pread(
        reader, _CHUNK if end is None else min(_CHUNK, end - hashed.size), hashed.size
    ):
        write_at(writer, block, hashed.size)
        hashed.update(block)


def _named(exc: OSError, source: Path, final: Path) -> Exception:
    if full := disk_full(exc, final, allocated(source.stat())):
        return full
    if exc.filename == str(source):
        return BadDestination(str(final), _unreadable(exc, source))
    return BadDestination(str(final), (exc.strerror or str(exc)).lower())


def _unreadable(exc: OSError, source: Path) -> str:
    why = (exc.strerror or str(exc)).lower()
    return f"what the task made, {printable(exc.filename or source)}, cannot be read: {why}"

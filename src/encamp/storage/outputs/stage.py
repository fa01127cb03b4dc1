"""Staging: copying a task's outputs to temporary names at the destination.

Publishing has two steps, so that only one party makes files visible. `stage` copies to temporary
names on the destination's own file system, checks and flushes; `publish.publish` renames to the
final names. A file that is not published never has its final name, whenever the process dies.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from secrets import token_hex

import msgspec
from msgspec.structs import replace

from encamp.errors import (
    BadDestination,
    EncampError,
    MissingOutput,
    OutputConflict,
    UnusableInput,
    UnusableOutput,
)
from encamp.storage import urls
from encamp.storage.disk.copy_file import write_at
from encamp.storage.disk.digest import Digest
from encamp.storage.disk.disk_full import disk_full
from encamp.storage.disk.holes import allocated, data_parts, is_sparse
from encamp.storage.disk.path_to_destination import NAMED, Trust, opened
from encamp.storage.disk.temporary_names import PART, Written, discard
from encamp.storage.disk.unsupported_requests import flushed, set_permissions
from encamp.storage.outputs.patterns import Existing, Output, bound, final_of
from encamp.storage.outputs.publishable import Kind, OutputFile, Publishable, entries_below
from encamp.storage.outputs.sees_destination import reaches
from encamp.storage.outputs.send_outputs import OutputChannel, RemoteTarget, send_file
from encamp.storage.real_paths import current_folder
from encamp.storage.shared_folders import Portable, below, local, with_name
from encamp.storage.urls import is_url

_CHUNK = 1 << 20


class Staged(msgspec.Struct, frozen=True):
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
    """Whether the copy is flushed; if not, call `publish.flush_copies` before `publish`."""
    kind: Kind = "file"
    target: str = ""
    """The target of a symlink."""
    written: Written | None = None
    """The identity of the temporary file when it was complete; None if there is none on a disk."""
    trust: Trust = NAMED
    """The users whose links and folders on its path are trusted."""


Final = Path | str | RemoteTarget
"""Where an output goes: a path on this host, a URL, or a path on the spawner's host."""


def _place(far: Collection[Portable], output: Output) -> Callable[[PurePosixPath], Final]:
    """A function that returns where each file of a bound output goes, see `Final`."""
    if output.at is None or output.at not in far:
        return final_of(output)
    return partial(RemoteTarget, output.at)


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

    `bound` outputs need no ``destination``. With a ``channel`` they are sent if this host does not
    reach the destination, see `sees_destination.reaches`. ``token`` distinguishes the temporary
    names from those of other attempts. ``inputs`` are the paths of inputs, which messages about the
    task's files leave out. ``announce`` is called with the temporary names before the files exist.
    ``unchanged`` returns whether a path in the folder is an unchanged input, which patterns do not
    match. ``is_from`` is for inputs that may be changed in place: it returns whether an input was
    mirrored from the final name that it would get. Such an input is not published if it is
    unchanged, or if ``unchanged`` is None (after a failure).

    Blocks until the copies are flushed; without ``flush``, another process of this host has to
    flush them, many at once (`publish.flush_copies`). Raises `MissingOutput`, `UnusableOutput`,
    `OutputConflict`, `BadDestination` or `DiskFull`; then no temporary file is left here. If
    ``lenient``, files with such an error are left out, and missing ones are no error.
    """
    token = f"{token}.{token_hex(4)}"  # an executor may run the same attempt twice
    try:
        outputs = tuple(outputs)
        if any(output.at is None for output in outputs):
            outputs = bound(outputs, destination or current_folder())
        ats = {output.at for output in outputs if channel is not None}
        far = {at for at in ats if at is not None and not reaches(at, beacon)}
    except OSError as exc:
        why = (exc.strerror or str(exc)).lower()
        raise BadDestination(str(destination or folder), why) from exc
    try:
        found = Publishable(folder, task, lenient=lenient, unchanged=unchanged)
        wanted = _wanted(
            found, folder, outputs, partial(_place, far), task, inputs, is_from, lenient=lenient
        )
    except OSError as exc:
        if not folder.is_dir():
            if lenient:
                return []
            why = "the task's folder has vanished; a step must not remove or rename it"
            raise UnusableOutput(task, outputs[0].pattern, why) from exc
        path = os.path.relpath(exc.filename or folder, folder)
        raise UnusableOutput(task, path, str(_UnreadableError(exc))) from exc
    tokens = {final: f"{token}-{number}" for number, final in enumerate(wanted)}
    if announce is not None:
        announce([_part(one, tokens[one]) for one in wanted if isinstance(one, Path)])
    staged: list[Staged] = []
    try:
        for final, made in wanted.items():
            with suppress(*((EncampError, OSError) if lenient else ())), _readable(task, made):
                staged.append(_staged(folder, made, final, tokens[final], channel, flush))
    except BaseException:
        unstage(one for one in staged if not far)  # the other side removes its own
        raise
    return staged


@contextmanager
def _readable(task: str, made: OutputFile) -> Iterator[None]:
    try:
        yield
    except _UnreadableError as exc:
        raise UnusableOutput(task, made.path, str(exc)) from exc.__cause__


def _part(final: Path, token: str) -> Path:
    return final.with_name(f"{PART}{token}")


def _staged(
    folder: Path,
    made: OutputFile,
    final: Final,
    token: str,
    channel: OutputChannel | None,
    flush: bool,
) -> Staged:
    if made.kind != "file":
        return _link_or_folder(made, final, token)
    if isinstance(final, RemoteTarget) and channel is not None:
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
    size, digest = urls.upload(source, url)
    return Staged(made.path, url, str(final), size, digest, existing)


def _portable_final(final: Final, made: OutputFile) -> Portable:
    at = made.output.at
    return str(final) if at is None else below(at, str(made.inner))


def _trust(made: OutputFile) -> Trust:
    """The users whose links and folders on an output's path are trusted."""
    return made.output.trust.below(len(made.inner.parts) - 1)


def _link_or_folder(made: OutputFile, final: Final, token: str) -> Staged:
    """A symlink or an empty folder, which is created when it is published."""
    to = _portable_final(final, made)
    part, size = with_name(to, f"{PART}{token}"), len(os.fsencode(made.target))
    staged = Staged(made.path, part, to, size, "", made.output.existing, trust=_trust(made))
    return replace(staged, kind=made.kind, target=made.target)


def _sent(
    channel: OutputChannel, source: Path, made: OutputFile, final: RemoteTarget, token: str
) -> Staged:
    try:
        sent, size, digest = send_file(channel, source, final, token)
    except OSError as exc:
        raise _UnreadableError(exc) from exc
    staged = Staged(made.path, sent.part, sent.final, size, digest, made.output.existing)
    return replace(staged, written=sent.written, trust=_trust(made))


def unstage(staged: Iterable[Staged]) -> None:
    """Remove staged files that will not be published."""
    for one in staged:
        if one.kind != "file":
            continue
        if is_url(one.part):
            with suppress(BadDestination):  # it stays if the destination cannot be reached
                urls.remove(str(one.part))
        else:
            discard(local(one.part))


def _wanted(
    found: Publishable,
    folder: Path,
    outputs: Iterable[Output],
    place: Callable[[Output], Callable[[PurePosixPath], Final]],
    task: str,
    inputs: frozenset[str],
    is_from: Callable[[str, Path], bool] | None,
    *,
    lenient: bool,
) -> dict[Final, OutputFile]:
    """The destination of each file that the patterns match → the file."""
    finals_of = lru_cache(maxsize=None)(place)
    for output in outputs:
        start = len(found.passed)
        if found.add(output) or lenient or not output.required:
            continue
        passed = found.passed[start:]
        to_source = partial(_goes_to_source, is_from=is_from)
        if not any(to_source(one, finals_of(one.output)(one.inner)) for one in passed):
            left = tuple(one.path for one in passed[:10])
            raise MissingOutput(task, output.pattern, _new_files(folder, inputs), left)
    wanted: dict[Final, OutputFile] = {}
    for made in found.all():
        final = finals_of(made.output)(made.inner)
        if found.takes_inputs and _goes_to_source(made, final, is_from):
            continue
        before = wanted.setdefault(final, made)
        if before.path != made.path and not (lenient or before.kind == made.kind == "folder"):
            raise OutputConflict(str(final), before.path, made.path)
    return wanted


def _goes_to_source(
    made: OutputFile, final: Final, is_from: Callable[[str, Path], bool] | None
) -> bool:
    """Whether an input was mirrored from the name that it would get."""
    if is_from is None or isinstance(final, str):
        return False
    with suppress(UnusableInput):  # this host has fewer shared roots
        return is_from(made.path, final if isinstance(final, Path) else local(final.place))
    return False


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
    """Copy and flush; the digest is that of the bytes written, which are not read again."""
    try:
        with ExitStack() as files:
            reader = os.open(str(source), os.O_RDONLY | os.O_CLOEXEC)
            files.callback(os.close, reader)
            folder = files.enter_context(opened(part.parent, trust, make=True))
            writer = _new_file(part.name, folder)
            files.callback(os.close, writer)
            made = os.fstat(reader)
            size, digest = _pump(reader, writer, made)
            # As the task has set them, but always writable by their owner.
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
    """Create a file that no other user can read while it is incomplete."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=folder)


def _pump(reader: int, writer: int, status: os.stat_result) -> tuple[int, str]:
    """Copy and hash all bytes; holes stay holes, and are hashed as zeros."""
    digest = Digest()
    if is_sparse(status):
        for begin, end in data_parts(reader, status.st_size):
            digest.zeros(begin - digest.size)
            _pump_part(reader, writer, digest, end)
        digest.zeros(status.st_size - digest.size)
        os.ftruncate(writer, digest.size)
    _pump_part(reader, writer, digest, None)
    return digest.size, digest.hex


def _pump_part(reader: int, writer: int, digest: Digest, end: int | None) -> None:
    """Copy from the end of the bytes hashed so far to ``end``, or to the end of the file."""
    while block := os.pread(
        reader, _CHUNK if end is None else min(_CHUNK, end - digest.size), digest.size
    ):
        write_at(writer, block, digest.size)
        digest.update(block)


def _named(exc: OSError, source: Path, final: Path) -> Exception:
    if full := disk_full(exc, final, allocated(source.stat())):
        return full
    if exc.filename == str(source):
        return _UnreadableError(exc)
    return BadDestination(str(final), (exc.strerror or str(exc)).lower())


class _UnreadableError(Exception):
    """The error for a file of the task that cannot be read."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"it cannot be read: {(cause.strerror or str(cause)).lower()}")

"""Inputs and destinations by URL (``s3://``, ``https://``, ``memory://`` …), through fsspec.

An input is downloaded to a host's cache once. An output is uploaded under a temporary name and
moved to its final one when it is published.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from encamp.errors import (
    BadDestination,
    BadJob,
    SourceChanged,
    UnusableInput,
    extra_text,
    reason,
)

_CHUNK = 1 << 20
_STATES = ("ETag", "md5Hash", "Content-MD5", "Last-Modified", "LastModified", "mtime", "updated")
"""Names, in file systems, of properties that change with a file; the most reliable first."""


def is_url(path: object) -> bool:
    """Whether a path is a URL of some kind."""
    return isinstance(path, str) and "://" in path


def without_scheme(place: str) -> str:
    """The path that a URL of this host's disk stands for; raises `BadJob` if it is not absolute."""
    scheme, is_there, path = place.partition(":")
    if not is_there or scheme not in _OF_THIS_DISK or not path.startswith("/"):
        return place
    path = path.removeprefix("//")  # RFC 8089 has file:/folder as well
    if not path.startswith("/"):
        raise BadJob(f"the URL {place!r}", f"has no absolute path; write {scheme}:///folder/name")
    return f"/{path.lstrip('/')}"


_OF_THIS_DISK = ("file", "local")


def url_parts(url: str) -> tuple[str, ...]:
    """The names in a URL, for comparisons: services report ``memory://a`` as ``memory:///a``.

    A slash at the end does not count.
    """
    scheme, _, path = url.partition("://")
    return f"{scheme}:", "", *path.strip("/").split("/")


def folder_name(to: str | os.PathLike[str]) -> str:
    """A destination that must be a folder on a disk; raises `BadDestination` for other URLs."""
    place = without_scheme(os.fspath(to))
    if is_url(place):
        raise BadDestination(place, "only the 'to' of a single output can be a URL")
    return os.path.expanduser(place)


class RemoteFile(msgspec.Struct, frozen=True):
    """A file at a URL; ``inner`` is its path relative to the parent of the pattern's match."""

    url: str
    inner: PurePosixPath
    size: int
    state: str
    """A property that changes with the file: its ETag, modification time, or another one."""
    mtime_ns: int
    """When it changed, in nanoseconds since the epoch; 0 if the service does not report it."""


def find_remote(pattern: str) -> list[RemoteFile]:
    """The files at a URL, or that match a glob with a scheme; all files in folders. Blocks.

    Raises `UnusableInput` if the service cannot be reached or fsspec is not installed.
    """
    with _reading(pattern):
        system, path = _opened(pattern)
        matches = sorted(system.glob(path)) if any(c in path for c in "*?[") else [path]
        return [file for match in matches for file in _files(system, match)]


def _files(system: Any, path: str) -> Iterator[RemoteFile]:
    top, info = PurePosixPath(path).parent, _info(system, path)
    if info is None:
        return
    for found in sorted(system.find(path)) if info["type"] == "directory" else [path]:
        info = system.info(found)
        url = system.unstrip_protocol(found)
        if info.get("size") is None:
            raise UnusableInput(url, "its server does not report its size; fetch it in a step")
        state = next((str(info[key]) for key in _STATES if info.get(key)), system.ukey(found))
        yield RemoteFile(
            url, PurePosixPath(found).relative_to(top), int(info["size"]), state, _mtime_ns(info)
        )


_TIMES = ("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "modified")
"""Names of the modification time in file systems."""


def _mtime_ns(info: dict[str, Any]) -> int:
    """The modification time in nanoseconds since the epoch; 0 if it is unknown."""
    for name in _TIMES:
        with suppress(ValueError, TypeError, OverflowError):
            if (value := info.get(name)) is not None:
                return max(0, round(_seconds(value) * 1e6) * 1000)
    return 0


def _seconds(value: object) -> float:
    """Seconds since the epoch, from a number, a time, or a string in HTTP's or ISO's format."""
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        from email.utils import parsedate_to_datetime  # imported here, so that slots start faster

        try:
            value = parsedate_to_datetime(value)
        except ValueError:
            value = datetime.fromisoformat(str(value))
    if not isinstance(value, datetime):
        raise TypeError(value)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _info(system: Any, path: str) -> dict[str, Any] | None:
    """The properties of a file or folder; None if it certainly does not exist."""
    try:
        return dict(system.info(path))
    except FileNotFoundError as exc:
        cause = exc.__cause__  # fsspec reports a server that does not answer as a missing file
        unknown = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        if cause is not None and (unknown or getattr(cause, "status", 404) not in (404, 410)):
            raise cause from None
        return None


def download(url: str, target: Path, size: int, mtime_ns: int, mode: int) -> None:
    """Download to a new file; blocks. Raises `SourceChanged`, `UnusableInput`, OSError."""
    try:
        with _reading(url), target.open("xb") as writer:
            system, path = _opened(url)
            with system.open(path, "rb") as reader:
                shutil.copyfileobj(reader, writer, _CHUNK)
            os.fchmod(writer.fileno(), mode & 0o777)
        if target.stat().st_size != size:
            raise SourceChanged(url)
        os.utime(target, ns=(mtime_ns, mtime_ns))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def upload(source: Path, url: str) -> tuple[int, str]:
    """Upload a file; blocks. Returns its size and blake2b-128. Raises `BadDestination`."""
    hashed, size = hashlib.blake2b(digest_size=16), 0
    with _writing(url):
        system, path = _opened(url)
        system.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        with source.open("rb") as reader, system.open(path, "wb") as writer:
            while block := reader.read(_CHUNK):
                hashed.update(block)
                writer.write(block)
                size += len(block)
        if system.size(path) not in (None, size):
            raise BadDestination(url, "fewer bytes arrived than were sent")
    return size, hashed.hexdigest()


def make_folder(url: str) -> None:
    """Create an empty folder; raises `BadDestination` if the service has none."""
    with _writing(url):
        system, path = _opened(url)
        system.makedirs(path, exist_ok=True)
        if not system.isdir(path):
            raise BadDestination(url, "this service cannot store an empty folder")


def move(part: str, final: str) -> None:
    """Give an uploaded file its final name; raises `BadDestination`."""
    with _writing(final):
        system, path = _opened(part)
        to = _opened(final)[1]
        aside = f"{path}.before"
        if system.exists(to):
            system.mv(to, aside)
        try:
            system.mv(path, to)
        except BaseException:
            if system.exists(aside):
                system.mv(aside, to)
            raise
        if system.exists(aside):
            system.rm(aside)


def remove(url: str) -> None:
    """Remove an uploaded file if it exists."""
    with _writing(url):
        system, path = _opened(url)
        if system.exists(path):
            system.rm(path)


def size_of(url: str) -> int | None:
    """The size of the file at ``url``; None if there is none."""
    with _reading(url):
        system, path = _opened(url)
        return int(system.size(path)) if system.exists(path) else None


def check(url: str) -> None:
    """Raise `BadDestination` if no file system is known for ``url``; writes nothing."""
    with _writing(url):
        _opened(url)


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    system.invalidate_cache()  # others may have written since this process has looked
    return system, str(path)


@contextmanager
def _reading(url: str) -> Iterator[None]:
    try:
        yield
    except ImportError as exc:
        raise UnusableInput(url, f"{exc}; {extra_text('remote')}") from exc
    except FileNotFoundError as exc:
        raise UnusableInput(url, "it does not exist") from exc
    except (UnusableInput, SourceChanged):
        raise
    except Exception as exc:
        raise UnusableInput(url, reason(exc)) from exc


@contextmanager
def _writing(url: str) -> Iterator[None]:
    try:
        yield
    except ImportError as exc:
        raise BadDestination(url, f"{exc}; {extra_text('remote')}") from exc
    except BadDestination:
        raise
    except Exception as exc:
        raise BadDestination(url, reason(exc)) from exc

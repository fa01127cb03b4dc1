"""``MANIFEST`` in the job's folder: all published files with their digests, for `b2sum --check`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

from encamp.attempt_facts import Published
from encamp.errors import NotOurs
from encamp.storage.disk.trusted_files import TrustedFiles
from encamp.storage.urls import is_url

NAME = "MANIFEST"


def manifest_lines(published: Iterable[Published], top: str) -> Iterator[bytes]:
    """Files with their digests as ``b2sum --check`` reads them, paths relative to ``top``.

    See b2sum(1): in a name, newlines and backslashes are escaped, and its line is marked.
    """
    for one in published:
        if one.digest and not is_url(one.path):
            yield _manifest_line(_below(one.path, top), one.digest)


def _below(path: str, top: str) -> str:
    """``path`` relative to ``top``; in most cases it begins with it."""
    inner = path[len(top) + 1 :]
    plain = path.startswith(f"{top}/") and "//" not in path and "/." not in inner
    return inner if plain and inner[:1] != "." else os.path.relpath(path, top)


def _manifest_line(path: str, digest: str) -> bytes:
    name = os.fsencode(path)
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"" if escaped == name else b"\\"
    return mark + b"BLAKE2b-128 (" + escaped + b") = " + digest.encode() + b"\n"


def write_manifest(files: TrustedFiles, lines: Iterable[bytes]) -> None:
    """List all published files with their digests in ``MANIFEST``; raises OSError."""
    lines = sorted(lines)
    if not _is_written(files, lines):
        with files.replacing(NAME) as file:
            file.writelines(lines)


def _is_written(files: TrustedFiles, lines: list[bytes]) -> bool:
    with suppress(OSError, NotOurs), os.fdopen(files.open(NAME), "rb") as file:
        return all(file.read(len(line)) == line for line in lines) and not file.read(1)
    return False

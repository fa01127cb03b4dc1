"""``MANIFEST`` in the job's folder: all published files with their digests, for `b2sum --check`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from encamp.errors import NotOurs
from encamp.storage.disk.trusted_files import TrustedFiles

NAME = "MANIFEST"


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

"""Get PyOPUS's source from the package index: pip cannot build it, and we need only its Python.

It is GPL: it stays in the temporary folder and runs in processes of its own, no part of encamp.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import tarfile
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

NAME = "PyOPUS-0.9"
SHA256 = "198fd1c41c3dee10068fe3ac6d35e0f5ef3e0387f4b86014a4a8b1429e23c930"


def unpacked() -> Path:
    """The folder to put on the path; downloads it the first time."""
    cache = own_cache()
    if not (cache / NAME).is_dir():
        _unpack(cache)
    return cache / NAME


def own_cache() -> Path:
    """Where peers are kept that were downloaded."""
    return _own_folder(Path(tempfile.gettempdir(), f"encamp-peers-{os.getuid()}"))


def _own_folder(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o777 != 0o700 or folder.is_symlink():
        raise PermissionError(f"{folder} is not a private folder of ours; remove it")
    return folder


def _unpack(cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as made:
        archive = Path(made, "archive")
        archive.write_bytes(_download())
        with tarfile.open(archive) as members:
            members.extractall(made, filter="data")
        Path(made, NAME).rename(cache / NAME)


def _download() -> bytes:
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    page = f"{index}/pyopus/"
    for link in re.findall(r'href="([^"]+)"', _fetch(page).decode()):
        if urllib.parse.urlsplit(link).path.endswith(f"/{NAME}.tar.gz"):
            return _checked(_fetch(urllib.parse.urljoin(page, link)))
    raise FileNotFoundError(f"{page} names no {NAME}.tar.gz")


def _fetch(address: str) -> bytes:
    trusted = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    with urllib.request.urlopen(address, timeout=60, context=trusted) as answer:
        content: bytes = answer.read()
    return content


def _checked(content: bytes) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"{NAME}.tar.gz has digest {found}, not {SHA256}")
    return content

"""Another user of the same host, and folders in which both may write."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

STRANGER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


def stranger(script: str, *words: object) -> None:
    """Let the stranger run a shell script, with words as ``$1`` and so on."""
    subprocess.run(
        ["/bin/sh", "-ec", script, "stranger", *map(str, words)],
        check=True,
        timeout=60,
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        umask=0,
    )


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, in which anybody can put files (1777)."""
    folder = Path(tempfile.mkdtemp(prefix="scratch-", dir="/tmp"))
    folder.chmod(0o1777)
    monkeypatch.chdir(folder)
    yield folder
    monkeypatch.undo()
    shutil.rmtree(folder)

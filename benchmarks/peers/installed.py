"""Peers that are installed from the package index for the benchmarks alone, apart from all else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.peers.pyopus_source import own_cache

PYRO5, RAY = ("Pyro5==5.17", "serpent==1.43"), ("ray==2.60.0",)
HYPERQUEUE = ("hyperqueue==0.27.0",)


def installed(packages: tuple[str, ...]) -> Path:
    """The folder to put on the path; installs it the first time.

    Raises CalledProcessError where it cannot be had.
    """
    folder = own_cache() / packages[0]
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.part")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(partial)]
        subprocess.run([*command, "--upgrade", *packages], check=True)
        partial.rename(folder)
    return folder

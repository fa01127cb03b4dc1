"""``make bench``: measure all figures, or those of the planes named on the command line."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

import psutil

from encamp.storage.local_storage import LOCAL

PLANES = ("storage", "compute", "controller", "jobs", "services", "pvm", "systems")
ALONE = ("compared", "peers", "steps")
"""Benchmarks that are programs of their own."""

_REMEDY = (
    f"choose from {', '.join(PLANES)}, "
    f"or run one of these by itself: {', '.join(f'python -m benchmarks.{one}' for one in ALONE)}"
)


def _file_system(folder: Path) -> str:
    disks = psutil.disk_partitions(all=True)
    holding = [disk for disk in disks if folder.resolve().is_relative_to(disk.mountpoint)]
    nearest = max(holding, key=lambda disk: len(disk.mountpoint))
    return f"{nearest.fstype} at {nearest.mountpoint}"


def main(names: list[str]) -> int:
    """Print one line a figure; returns 1 if one does not hold, 2 for an unknown name."""
    for name in names:
        if name not in PLANES:
            print(f"{name} has no figures here; {_REMEDY}", file=sys.stderr)
            return 2
    missed = 0
    for name in names or PLANES:
        module = importlib.import_module(f"benchmarks.{name}")
        with tempfile.TemporaryDirectory(prefix="encamp-bench-") as folder:
            os.environ[LOCAL] = f"{folder}/local"
            (work := Path(folder, "work")).mkdir()
            print(f"{name} (on {_file_system(work)}, {os.cpu_count()} cores):")
            for figure in module.figures(work):
                print("  " + figure.line(), flush=True)
                missed += not figure.holds
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

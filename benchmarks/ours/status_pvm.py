"""What asking for the state of a PVM cluster leaves in memory.

    python -m benchmarks.ours.status_pvm TIMES

Prints as JSON by how many bytes the program has grown.
"""

from __future__ import annotations

import json
import sys

import psutil

import encamp

_WARM = 2000


def _ask(cluster: encamp.Cluster, times: int) -> int:
    """Bytes in memory after asking."""
    for _ in range(times):
        assert len(cluster.hosts()) == 1
        assert cluster.free_slots == cluster.slots
        assert len(cluster._engine.machine_hosts()) == 1  # type: ignore[attr-defined]
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    with encamp.Cluster("pvm", slots=2, machine="own") as open_cluster:
        _ask(open_cluster, _WARM)
        before = _ask(open_cluster, _WARM)
        after = _ask(open_cluster, int(sys.argv[1]))
    print(json.dumps({"grown": after - before}))

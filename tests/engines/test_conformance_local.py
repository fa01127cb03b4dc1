"""The engine ``local`` does what every engine must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.testing.conformance import ClusterOf, Conformance, Facts

_SCRIPT = """\
from encamp.cluster.cluster import Cluster
from encamp.testing import work
cluster = Cluster("local", slots=2)
tasks = cluster.spawn_many(work.family, [()] * 2, notify=False)
print(*(cluster.receive().message for task in tasks), flush=True)
cluster.receive()
"""


class TestLocal(Conformance):
    facts = Facts(engine="local")

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        def make(slots: int, **options: Any) -> Cluster:
            return Cluster("local", slots=slots, **options)

        return make

    def script(self, folder: Path) -> Path:
        path = folder / "controller.py"
        path.write_text(_SCRIPT)
        return path

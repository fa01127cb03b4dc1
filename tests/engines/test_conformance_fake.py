"""The network in memory, of three hosts, carries what every engine must.

Its agents start slots in this process, as the one of `local` does: how tasks end and how they are
isolated from each other is the same code there, and on real hosts with an MPI.
"""

from __future__ import annotations

from typing import Any

import pytest
from class_wide import ClassWide

from encamp.cluster.cluster import Cluster
from encamp.testing.conformance import ClusterOf, Facts, LosesHosts, Sharing
from encamp.testing.conformance.closing import Closing
from encamp.testing.conformance.files import Files
from encamp.testing.conformance.messages import Messages
from encamp.testing.conformance.resources import Resources
from encamp.testing.conformance.running import Running
from encamp.testing.fake import FakeEngine


class TestFake(ClassWide, Running, Messages, Sharing, Files, Resources, Closing, LosesHosts):
    facts = Facts(engine="fake", hosts=3)

    @pytest.fixture(scope="class")
    @classmethod
    def cluster_of(cls) -> ClusterOf:
        def make(slots: int, **options: Any) -> Cluster:
            spread = [2, *[1] * (slots - 2)] if slots > 2 else [1] * slots
            return Cluster(FakeEngine(slots=spread), **options)

        return make

    def kill_host(self, cluster: Cluster, host: str) -> None:
        engine = cluster._engine
        assert isinstance(engine, FakeEngine)
        engine.kill_host(host)
